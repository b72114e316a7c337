"""Run a stateful session: variables persist, and a cell that fails leaves no trace."""

from sandbox import Sandbox

CELLS = (
    "data = [3, 1, 2]",
    "data.sort(); open('data.txt', 'w').write(str(data)); print(data)",
    "data.clear(); open('data.txt', 'w').write(''); print(data[0])",  # fails half-way
    "print(data, open('data.txt').read())",
)


def main() -> None:
    with Sandbox() as sandbox, sandbox.session() as session:
        for code in CELLS:
            result = session.run(code)
            print(f">>> {code}")
            print((result.stdout or result.traceback or "(no output)").strip())
        checkpoint = session.checkpoint()
        session.run("data = 'something else'")
        session.rollback(checkpoint)
        print("after a rollback:", session.run("print(data)").stdout.strip())


if __name__ == "__main__":
    main()
