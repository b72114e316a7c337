"""Drive the environment by hand: pose a problem, run a program, answer, read the transcript."""

import gymnasium as gym

from cleaner_env import HermesFormat


def main() -> float:
    """Play one episode and return its reward."""
    env = gym.make("cleaner_env:CleanerCodeTool-v0", render_mode="human")
    task = {"prompt": "What is the sum of the first 100 odd numbers?", "answer": "10000"}
    observation, info = env.reset(options={"task": task})

    program = "print(sum(range(1, 200, 2)))"
    observation, reward, terminated, truncated, info = env.step(HermesFormat().render(program))
    print("the tool answers:", observation, "- the call worked:", info["call_ok"])

    observation, reward, terminated, truncated, info = env.step(rf"It is \boxed{{{observation}}}.")
    print("terminated:", terminated, "- truncated:", truncated, "- answer:", info["answer"])
    env.close()
    return float(reward)


if __name__ == "__main__":
    main()
