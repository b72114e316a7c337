"""Turn an episode into rows for other trainers: the purified trajectory, and the failed call
against its correction.

``python -m cleaner_rl.export RUN --purified --out DIR`` does the same for a run's episodes.
"""

import json

from cleaner_env import CodeToolEnv, HermesFormat, SAARWrapper
from cleaner_env.chat import preference_rows, sft_row

TURNS = (
    "Let me compute.\n" + HermesFormat().render("print(math.factorial(12))"),
    "I forgot the import.\n" + HermesFormat().render("import math\nprint(math.factorial(12))"),
    r"The answer is \boxed{479001600}.",
)


def main() -> tuple[dict, list[dict]]:
    """Play the episode and print its rows."""
    env = SAARWrapper(CodeToolEnv())
    env.reset(options={"task": {"prompt": "What is 12 factorial?", "answer": "479001600"}})
    for turn in TURNS:
        env.step(turn)
    env.close()
    trajectory, corrections = sft_row(env.episode), preference_rows(env.episode)
    print("SFTTrainer:", json.dumps(trajectory["messages"][2:], indent=1))
    for row in corrections:
        print("DPOTrainer:", json.dumps({k: row[k] for k in ("chosen", "rejected")}, indent=1))
    return trajectory, corrections


if __name__ == "__main__":
    main()
