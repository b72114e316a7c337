"""Task sources by name: what ``--tasks`` means, and files of tasks."""

from __future__ import annotations

import json
import random
from pathlib import Path

from cleaner_env.families import FAMILIES
from cleaner_env.rewards import check_reward
from cleaner_env.tasks import ReasoningGymTasks, Split, Task, TaskList, TaskSource, split_of


def read_jsonl(path: Path) -> list[Task]:
    """Tasks from a file of JSON objects with ``prompt`` and ``answer``, one a line.

    Raises:
        ValueError: the file cannot be read, is empty, or a row is not a task; says which row.
    """
    try:
        # Not splitlines(): U+2028 and its like are allowed inside a JSON string.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read tasks from {path}: {error}") from error
    tasks = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("a row must be a JSON object")
            task = Task.parse(row)
            check_reward(task)
            tasks.append(task)
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from error
    if not tasks:
        raise ValueError(f"{path} holds no tasks")
    return tasks


def load_tasks(spec: str, split: Split = "train", seed: int = 0) -> TaskSource:
    """The task source behind a ``--tasks`` value.

    Args:
        spec: ``"reasoning-gym"`` (the families of ``cleaner_env.families``),
            ``"reasoning-gym:gcd,lcm"``, or the path of a ``.jsonl`` file, of which a tenth, chosen
            by a hash of the prompt, is held out.
        split: which of the two splits.
        seed: of generated tasks, and of the order of a file's rows.

    Raises:
        ValueError: there is no such source, or it cannot be read.
    """
    kind, _, rest = spec.partition(":")
    if kind == "reasoning-gym":
        names = [name.strip() for name in rest.split(",") if name.strip()]
        return ReasoningGymTasks(names or FAMILIES, split, seed)
    if not spec.endswith(".jsonl"):
        raise ValueError(
            f"unknown tasks {spec!r}; use 'reasoning-gym', 'reasoning-gym:FAMILY,FAMILY', "
            "or the path of a .jsonl file with 'prompt' and 'answer' in every row"
        )
    tasks = [task for task in read_jsonl(Path(spec)) if split_of(task.prompt) == split]
    if not tasks:
        raise ValueError(f"{spec} has too few tasks for a {split} split; add more rows")
    random.Random(seed).shuffle(tasks)
    return TaskList(tasks)


def first_tasks(source: TaskSource, count: int) -> list[Task]:
    """The source's first ``count`` tasks, or all of them where it has fewer, none twice."""
    if isinstance(source, TaskList):
        count = min(count, len(source))
    return [source[index] for index in range(count)]
