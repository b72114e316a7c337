"""Wrap the environment for an agent that only knows strings, such as an API client.

The agent gets chat messages and returns text. It knows nothing about tokens, rollback or Gymnasium.
"""

from collections.abc import Callable

from cleaner_env import CodeToolEnv, Episode, HermesFormat, SAARWrapper

Agent = Callable[[list[dict[str, str]]], str]


def clumsy_agent(messages: list[dict[str, str]]) -> str:
    """Forget the import, add it after the error, and answer with what was printed."""
    last = messages[-1]
    if last["role"] != "tool":
        return "Let me compute.\n" + HermesFormat().render("print(math.factorial(12))")
    if "NameError" in last["content"]:
        return "I forgot it.\n" + HermesFormat().render("import math\nprint(math.factorial(12))")
    return rf"The answer is \boxed{{{last['content']}}}."


def play(agent: Agent, task: dict[str, str]) -> Episode:
    """Play one episode with any agent and return it purified."""
    env = SAARWrapper(CodeToolEnv(max_turns=8))
    _, info = env.reset(options={"task": task})
    over = False
    while not over:
        _, _, terminated, truncated, info = env.step(agent(info["messages"]))
        over = terminated or truncated
    env.close()
    return env.episode


def main() -> Episode:
    """Let the clumsy agent solve a problem."""
    episode = play(clumsy_agent, {"prompt": "What is 12 factorial?", "answer": "479001600"})
    print(f"reward {episode.reward}, rollbacks {episode.stats.triggered}")
    for turn in episode.turns:
        print(repr(turn.text))
    return episode


if __name__ == "__main__":
    main()
