"""TaskDraw: the problem that the options of ``reset`` ask for."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeAlias, cast

import numpy as np

from cleaner_env.rewards import Reward
from cleaner_env.task import Task
from cleaner_env.tasks.builtin import BuiltinTasks
from cleaner_env.tasks.load import load_tasks
from cleaner_env.tasks.sources import ReasoningGymTasks, TaskList, TaskSource, select_tasks

Tasks: TypeAlias = TaskSource | str | Sequence[str | Task | Mapping[str, Any]]
"""What an environment accepts as its problems; see ``CodeToolEnv``."""


class TaskDraw:
    """Draws problems from where ``CodeToolEnv`` has them.

    None stands for ``default_source``, which is made when a problem is first drawn from it. Rows of
    files must be such as ``reward`` can score.
    """

    def __init__(self, tasks: Tasks | None, reward: Reward) -> None:
        self._source = None if tasks is None else _task_source(tasks, reward)
        self._selected: dict[tuple[str | None, str | None], TaskSource] = {}

    def draw(self, options: Mapping[str, Any], random: np.random.Generator) -> Task:
        """The problem that these options pose, or one at random among those they leave."""
        unknown = set(options) - {"task", "index", "family", "difficulty"}
        if unknown or ("task" in options and len(options) > 1):
            raise ValueError(
                "options may have either 'task', or 'index', 'family' and 'difficulty'; got "
                f"{sorted(options)}"
            )
        if "task" in options:
            return Task.parse(options["task"])
        source = self._narrowed(options.get("family"), options.get("difficulty"))
        if "index" in options:
            return source[_index(options["index"])]
        return source[int(random.integers(2**31))]

    def _narrowed(self, family: str | None, difficulty: str | int | None) -> TaskSource:
        """The source, or its problems of a family or a difficulty."""
        if self._source is None:
            self._source = default_source()
        if family is None and difficulty is None:
            return self._source
        key = (family, None if difficulty is None else str(difficulty))
        if key not in self._selected:
            self._selected[key] = select_tasks(self._source, *key)
        return self._selected[key]


def default_source() -> TaskSource:
    """reasoning-gym's families where that package is installed, else the built-in ones."""
    if find_spec("reasoning_gym") is not None:
        return ReasoningGymTasks()
    say_what_is_missing()
    return BuiltinTasks()


@cache
def say_what_is_missing() -> None:
    """Warn, once in a process."""
    warnings.warn(
        "reasoning-gym is not installed, so tasks come from the built-in families. tasks='builtin' "
        "chooses them without this warning; pip install -e '.[tasks]' installs reasoning-gym",
        stacklevel=2,
    )


def _task_source(tasks: Tasks, reward: Reward) -> TaskSource:
    if isinstance(tasks, str):
        return load_tasks(tasks, reward=reward)
    if not isinstance(tasks, Sequence):
        return tasks
    if tasks and all(isinstance(task, str) for task in tasks):
        return load_tasks(cast("Sequence[str]", tasks), reward=reward)
    return TaskList(cast("Sequence[Task]", tasks))


def _index(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise ValueError(f"options['index'] must be a whole number, not {value!r}") from error
