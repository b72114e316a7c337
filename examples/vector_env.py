"""Collect purified episodes from environments side by side, made by an id that carries SAAR."""

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from cleaner_env import Episode, HermesFormat, SAARWrapper

SAAR = SAARWrapper.wrapper_spec(gamma=0.5, max_retries=3)
KWARGS = {"tasks": [{"prompt": "What is 12 factorial?", "answer": "479001600"}]}


def clumsy_agent(messages: list[dict[str, str]]) -> str:
    """Forget the import, add it after the error, and answer with what was printed."""
    last = messages[-1]
    if last["role"] != "tool":
        return "Let me compute.\n" + HermesFormat().render("print(math.factorial(12))")
    if "NameError" in last["content"]:
        return "I forgot it.\n" + HermesFormat().render("import math\nprint(math.factorial(12))")
    return rf"The answer is \boxed{{{last['content']}}}."


def main(count: int = 4) -> list[Episode]:
    """Play with two environments until ``count`` episodes have ended."""
    if "CodeToolWithSAAR-v0" not in gym.registry:
        entry = "cleaner_env.env:CodeToolEnv"
        gym.register("CodeToolWithSAAR-v0", entry, kwargs=KWARGS, additional_wrappers=(SAAR,))
    mode = {"autoreset_mode": AutoresetMode.DISABLED}  # so that an ended episode can be looked at
    envs = gym.make_vec("CodeToolWithSAAR-v0", 2, "async", vector_kwargs=mode)
    episodes: list[Episode] = []
    _, info = envs.reset(seed=0)
    messages = list(info["messages"])
    while len(episodes) < count:
        _, _, terminated, truncated, info = envs.step(tuple(map(clumsy_agent, messages)))
        messages = list(info["messages"])
        over = terminated | truncated
        if over.any():
            buffers = zip(envs.get_attr("episode"), over, strict=True)
            episodes += [episode for episode, ended in buffers if ended]
            _, info = envs.reset(options={"reset_mask": over})
            messages = [info["messages"][i] if over[i] else messages[i] for i in range(len(over))]
    envs.close()
    for episode in episodes[:count]:
        print(f"reward {episode.reward:g}, purified:", [turn.code for turn in episode.turns])
    return episodes[:count]


if __name__ == "__main__":
    main()
