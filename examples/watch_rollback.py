"""Watch one rollback: a correction replaces the failed call and leaves a clean history."""

from cleaner_env import CodeToolEnv, Episode, HermesFormat, SAARWrapper

FAILED = "from maths import comb\nprint(comb(10, 3))"
FIXED = "from math import comb\nprint(comb(10, 3))"


def main() -> Episode:
    """Play one episode with a slip and return its buffer."""
    call = HermesFormat().render
    env = SAARWrapper(CodeToolEnv(system_prompt=None), gamma=0.5, max_retries=3)
    env.reset(options={"task": {"prompt": "How many ways to choose 3 of 10?", "answer": "120"}})

    error, *_, info = env.step("I count them.\n" + call(FAILED))
    print(f"the call failed:\n{error}\n\nlookahead: {info['lookahead']}\n")

    result, *_, info = env.step("The module is called math.\n" + call(FIXED))
    print(f"the corrected call prints {result}\n\nwhat the agent is shown next:")
    for message in info["messages"]:
        print(f"  {message['role']}: {message['content']!r}")

    env.step(r"There are \boxed{120} ways.")
    record = env.episode.rollbacks[0]
    print(f"\nthe record: {record.decision} splice, similarity {record.similarity:.2f}")
    print("sampled:", [turn.code for turn in env.episode.raw_turns])
    print("kept:   ", [turn.code for turn in env.episode.turns])
    env.close()
    return env.episode


if __name__ == "__main__":
    main()
