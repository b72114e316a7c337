"""Task sources: what problems are drawn from, a list or the generators of reasoning-gym."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from cleaner_env.rewards.scorers import reasoning_gym
from cleaner_env.task import Task
from cleaner_env.tasks.families import FAMILIES, FAMILY_SETS
from cleaner_env.tasks.spec import nearest

Split = Literal["train", "test"]

TEST_SHARE = 10
"""One question in this many belongs to the held-out split."""


class TaskSource(Protocol):
    """Anything that gives the task behind an index, the same one each time."""

    def __getitem__(self, index: int) -> Task: ...


class TaskList:
    """A source that repeats the given tasks for ever."""

    def __init__(self, tasks: Sequence[Task | Mapping[str, Any]]) -> None:
        if not tasks or isinstance(tasks, str):
            raise ValueError(f"tasks must be a list of at least one task, not {tasks!r}")
        self._tasks = [Task.parse(task) for task in tasks]

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: int) -> Task:
        return self._tasks[index % len(self._tasks)]

    def select(self, family: str | None = None, difficulty: str | None = None) -> TaskList:
        """The tasks of a family, of a difficulty (``entry["difficulty"]``), or both."""
        families = sorted({task.family for task in self._tasks})
        levels = sorted(
            {str(t.entry["difficulty"]) for t in self._tasks if "difficulty" in t.entry}
        )
        chosen = [
            task
            for task in self._tasks
            if family in (None, task.family)
            and difficulty in (None, str(task.entry.get("difficulty")))
        ]
        if not chosen:
            raise ValueError(
                f"no task of family {family!r} and difficulty {difficulty!r}; there are the "
                f"families {families[:50]} and the difficulties {levels[:50]}"
            )
        return TaskList(chosen)

    def fitting(self, fits: Callable[[Task], bool]) -> tuple[TaskList | None, int]:
        """The tasks that fit, None if there are none, and the number of the others."""
        kept = [task for task in self._tasks if fits(task)]
        left_out = len(self._tasks) - len(kept)
        return (self if not left_out else TaskList(kept) if kept else None), left_out


def task_count(source: TaskSource) -> int | None:
    """How many different tasks a source has; None when it never repeats itself."""
    return len(source) if isinstance(source, TaskList) else None


def select_tasks(
    source: TaskSource, family: str | None = None, difficulty: str | None = None
) -> TaskSource:
    """The source's tasks of a family, of a difficulty, or both."""
    select = getattr(source, "select", None)
    if select is None:
        raise ValueError(
            f"a {type(source).__name__} cannot pick tasks by family or difficulty: it has no "
            "select(family, difficulty)"
        )
    selected: TaskSource = select(family, difficulty)
    return selected


class FamilyTasks(ABC):
    """Endless tasks of several families, taken in turn.

    The two splits share no question: a hash of the question's text decides where it belongs.
    """

    def __init__(self, names: Sequence[str], split: Split, seed: int) -> None:
        check_split(split)
        self._names, self._split, self._seed = list(names), split, seed

    @abstractmethod
    def _questions(self, which: int, turn: int) -> Iterator[Task]:
        """Tasks of a family, of either split; the turn says where they begin."""

    @abstractmethod
    def _narrowed(self, names: Sequence[str], level: int | None) -> FamilyTasks:
        """The tasks of these families, at this level of difficulty or as they are."""

    def __getitem__(self, index: int) -> Task:
        """Task ``index``: family ``index % len(families)``, the same task each time."""
        turn, which = divmod(index, len(self._names))
        for task in self._questions(which, turn):
            if split_of(task.prompt) == self._split:
                return task
        raise ValueError(
            f"family {self._names[which]!r} has too few questions for a {self._split} split; "
            "make it more difficult or leave it out"
        )

    def select(self, family: str | None = None, difficulty: str | None = None) -> FamilyTasks:
        """The tasks of a family, those of a level of difficulty (``"2"``), or both."""
        if family is not None and family not in self._names:
            raise ValueError(f"no family {family!r} here; there are {self._names}")
        if difficulty is not None and not difficulty.isdecimal():
            raise ValueError(f"a difficulty is here a level such as 2, not {difficulty!r}")
        names = self._names if family is None else [family]
        return self._narrowed(names, None if difficulty is None else int(difficulty))


class ReasoningGymTasks(FamilyTasks):
    """Endless tasks from reasoning-gym families, taken in turn, scored by the library's scorers.

    Args:
        families: family names, or names with the configuration of reasoning-gym's generator.
        level: difficulty, from 0 on, in the library's own curriculum of each family, up to the
            family's highest; None for the families' configurations as given.
    """

    def __init__(
        self,
        families: Mapping[str, Mapping[str, Any]] | Sequence[str] = FAMILIES,
        split: Split = "train",
        seed: int = 0,
        level: int | None = None,
    ) -> None:
        super().__init__([*families], split, seed)
        if not families:
            raise ValueError("no families given; name at least one reasoning-gym family")
        if not isinstance(families, Mapping):
            families = {name: FAMILIES.get(name, {}) for name in families}
        for name in families:
            _check_family(name)
        if level is not None:
            families = {name: _at_level(name, level) for name in families}
        self._families = families
        self._datasets = [_dataset(name, dict(families[name])) for name in self._names]

    def _questions(self, which: int, turn: int) -> Iterator[Task]:
        # Starts far apart, so that the walks of two tasks to the wanted split do not meet.
        start = _hash(f"{self._seed}/{self._split}/{which}/{turn}")
        for offset in range(1000):
            entry = self._datasets[which][start + offset]
            question, answer = entry["question"].strip(), str(entry["answer"])
            yield Task(question, answer, self._names[which], "reasoning_gym", entry)

    def _narrowed(self, names: Sequence[str], level: int | None) -> ReasoningGymTasks:
        families = {name: self._families[name] for name in names}
        return ReasoningGymTasks(families, self._split, self._seed, level)


def check_split(split: str) -> None:
    """Raise ValueError for what is no split."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', not {split!r}")


def place_of(question: str) -> float:
    """A number in [0, 1) that depends on the question's text alone: where to cut for a split."""
    return _hash(question.strip()) / 2**32


def split_of(question: str) -> Split:
    """The split that a question belongs to, by a hash of its text."""
    return "test" if _hash(question.strip()) % TEST_SHARE == 0 else "train"


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


def _check_family(name: str) -> None:
    families = reasoning_gym().factory.DATASETS
    if name not in families:
        near = nearest(name, [*families, *FAMILY_SETS]) or f"; it has {sorted(families)}"
        raise ValueError(f"reasoning-gym has no family {name!r}{near}")


def _dataset(name: str, config: dict[str, Any]) -> Any:
    """The family's generator: an object that gives the entry behind any index."""
    package = reasoning_gym()
    try:
        return package.create_dataset(name, size=1, seed=0, **config)
    except (ValueError, AssertionError, TypeError) as error:
        raise ValueError(
            f"reasoning-gym cannot make family {name!r} with {config}: {error}"
        ) from error


def _at_level(name: str, level: int) -> dict[str, Any]:
    """The configuration of a level of the library's curriculum."""
    factory = reasoning_gym().factory
    try:
        curriculum = factory.create_curriculum(name)
    except ValueError as error:
        raise ValueError(f"reasoning-gym has no levels of difficulty for {name!r}") from error
    highest = max(len(attribute.levels) for attribute in curriculum.attributes.values()) - 1
    if not 0 <= level <= highest:
        raise ValueError(f"the levels of {name!r} go from 0 to {highest}; there is no {level}")
    curriculum.set_global_level(level)
    config = vars(curriculum.generate_configuration())
    return {key: value for key, value in config.items() if key not in ("seed", "size")}
