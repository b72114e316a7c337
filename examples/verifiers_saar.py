"""An environment for verifiers, and an episode of it with a scripted model.

verifiers finds a taskset and its harness by the name of a module: with this directory on the path,
``verifiers_saar`` is such a name. The model is a server on the loopback, so this needs no account.
"""

import asyncio
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from json import dumps
from pathlib import Path

import verifiers.v1 as vf

from cleaner_env.integrations.verifiers import SaarHarness, SaarTaskset

__all__ = ["SaarHarness", "SaarTaskset"]


def call(number: str, code: str) -> dict:
    """A message with a call of the interpreter."""
    function = {"name": "code_interpreter", "arguments": dumps({"code": code})}
    calls = [{"id": number, "type": "function", "function": function}]
    return {"role": "assistant", "content": "Let me compute.", "tool_calls": calls}


class Model(BaseHTTPRequestHandler):
    """Forgets an import, adds it when it is shown the error, and answers with what was printed."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if "NameError" in body:
            message = call("b", "import math\nprint(math.factorial(12))")
        elif "import math" in body:
            message = {"role": "assistant", "content": r"It is \boxed{479001600}."}
        else:
            message = call("a", "print(math.factorial(12))")
        finish = "tool_calls" if "tool_calls" in message else "stop"
        choice = {"index": 0, "message": message, "finish_reason": finish}
        head = {"id": "x", "object": "chat.completion", "created": 0, "model": "scripted"}
        answer = dumps(head | {"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


async def play(url: str, tasks: Path) -> vf.Trace:
    """Play the first task of the file."""
    config = vf.resolve_env_config(
        {"taskset": {"id": "verifiers_saar", "tasks": f"{tasks}@holdout=0"}}
    )
    environment = vf.load_environment(config)
    agent = vf.AgentConfig(
        model="scripted",
        client=vf.EvalClientConfig(base_url=url, api_key_var="UNSET"),
        harness=vf.harness_config_type("verifiers_saar")(id="verifiers_saar"),
        runtime=vf.SubprocessConfig(),
    )
    (task,) = environment.taskset.take(1)
    async with vf.Agent(agent) as player:
        return await player.run(task)


def main(directory: Path) -> vf.Trace:
    """Play an episode, and show the branches of its trace."""
    sys.path.insert(0, str(Path(__file__).parent))
    tasks = directory / "tasks.jsonl"
    tasks.write_text(dumps({"prompt": "What is 12 factorial?", "answer": "479001600"}) + "\n")
    server = HTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    trace = asyncio.run(play(f"http://127.0.0.1:{server.server_port}/v1", tasks))
    server.shutdown()
    server.server_close()
    for branch in trace.branches:
        print("trained:" if branch.trainable else "not trained:")
        for message in branch.messages[1:]:
            calls = [one.arguments for one in getattr(message, "tool_calls", None) or ()]
            print("   ", message.role, repr(message.content), *calls)
    print(f"reward {trace.reward}, recovered {trace.metrics['recovered']:.0f}")
    return trace


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as directory:
        main(Path(directory))
