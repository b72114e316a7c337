"""Task sources by name: what ``--tasks`` and ``gym.make(..., tasks="gsm8k:PATH")`` mean."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from cleaner_env.rewards import Reward
from cleaner_env.task import Task
from cleaner_env.tasks.builtin import BUILTIN, BuiltinTasks
from cleaner_env.tasks.code_layouts import CODE_LAYOUTS
from cleaner_env.tasks.families import FAMILIES, FAMILY_SETS
from cleaner_env.tasks.layouts import LAYOUTS, Layout
from cleaner_env.tasks.mixture import TaskMixture
from cleaner_env.tasks.rates import OPTIONS as RATE_OPTIONS
from cleaner_env.tasks.rates import in_bounds
from cleaner_env.tasks.rows import Row, read_rows
from cleaner_env.tasks.sources import (
    FamilyTasks,
    ReasoningGymTasks,
    Split,
    TaskList,
    TaskSource,
    check_split,
    place_of,
    task_count,
)
from cleaner_env.tasks.spec import SourceSpec, nearest, split_specs
from cleaner_env.tasks.verl import VERL

KINDS: dict[str, Layout] = {**LAYOUTS, **CODE_LAYOUTS, "verl": VERL, "open-agentrl": VERL}
"""Kinds of data sets by the word before the colon; "" is a path alone."""
_GENERATED = ("reasoning-gym", "builtin")
_EVERYWHERE = ("weight", "holdout", "limit", "shuffle", "config", "hub_split", *RATE_OPTIONS)

_FIRST = 64
"""How many tasks of an endless source are measured."""


def load_tasks(
    spec: str | Sequence[str],
    split: Split = "train",
    seed: int = 0,
    reward: Reward | None = None,
) -> TaskSource:
    """The task source behind a ``--tasks`` value; docs/tasks.md has the whole language.

    Args:
        spec: ``"reasoning-gym:gcd,lcm@level=2"``, ``"gsm8k:train.jsonl"``,
            ``"problems.csv@prompt=question,answer=result"``, ...; several in a list, or with
            ``" + "`` between them, are mixed by ``@weight=``.
        split: which of the two splits. A hash of the prompt decides where a task belongs.
        seed: of generated tasks, of the order of a file's rows, and of the order of choices.
        reward: what has to be able to score every row; by default the scorers of this package.

    Raises:
        ValueError: there is no such source, it cannot be read, or it has no task of the split.
    """
    check_split(split)
    specs = split_specs(spec)
    loaded = [(one, _load(one, split, seed, reward or Reward())) for one in specs]
    present = [(one, source) for one, source in loaded if source is not None]
    if not present:
        raise ValueError(_no_tasks(specs, split))
    if len(present) == 1:
        return present[0][1]
    weights = [one.number("weight", 1.0, 1e-6, 1e6) for one, _ in present]
    return TaskMixture([source for _, source in present], weights, seed)


def first_tasks(source: TaskSource, count: int) -> list[Task]:
    """The source's first ``count`` tasks, or all of them where it has fewer, none twice."""
    if isinstance(source, TaskMixture):
        return source.first(count)
    size = task_count(source)
    return [source[index] for index in range(count if size is None else min(count, size))]


def fitting_tasks(
    source: TaskSource, measure: Callable[[Task], int], most: int
) -> tuple[TaskSource, int]:
    """The source without tasks whose prompts measure more than ``most``, and how many those are.

    An endless source stays as it is; its first tasks are measured.

    Raises:
        ValueError: no task fits.
    """
    measures: list[int] = []

    def fits(task: Task) -> bool:
        measures.append(measure(task))
        return measures[-1] <= most

    kept: tuple[TaskSource | None, int] = (source, 0)
    if isinstance(source, TaskList | TaskMixture):
        kept = source.fitting(fits)
    fitting, left_out = kept
    if fitting is None or not any(map(fits, first_tasks(fitting, _FIRST))):
        raise ValueError(f"every prompt has more than {most} tokens, the shortest {min(measures)}")
    return fitting, left_out


def _load(spec: SourceSpec, split: Split, seed: int, reward: Reward) -> TaskSource | None:
    """One source; None when it has no task of the split."""
    if spec.kind in _GENERATED:
        return _generated(spec, split, seed)
    layout = KINDS.get(spec.kind)
    if layout is None:
        near = nearest(spec.kind, (*_GENERATED, *KINDS))
        raise ValueError(
            f"unknown tasks {spec.text!r}; use reasoning-gym, reasoning-gym:FAMILY,FAMILY, "
            "builtin, the path of a file (.jsonl, .json, .csv, .parquet) with prompt and answer in "
            f"every row, or KIND:PATH with one of the kinds {', '.join(sorted(KINDS)[1:])}{near}"
        )
    spec.allow((*_EVERYWHERE, *layout.options))
    tasks = _tasks_of_split(spec, layout, split, seed, reward)
    if spec.choice("shuffle", ("yes", "no")) == "yes":
        random.Random(seed).shuffle(tasks)
    tasks = tasks[: int(spec.number("limit", len(tasks), 1, 1e9))]
    return TaskList(tasks) if tasks else None


def _generated(spec: SourceSpec, split: Split, seed: int) -> FamilyTasks:
    """The families that the place names, or all."""
    spec.allow(("weight", "level"))
    names = [name.strip() for name in spec.place.split(",") if name.strip()]
    level = int(spec.number("level", 0, 0, 100)) if "level" in spec.options else None
    if spec.kind == "builtin":
        return BuiltinTasks(names or tuple(BUILTIN), split, seed, 1 if level is None else level)
    families = {} if names else dict(FAMILIES)
    for name in names:
        families |= FAMILY_SETS.get(name) or {name: FAMILIES.get(name, {})}
    return ReasoningGymTasks(families, split, seed, level)


def _tasks_of_split(
    spec: SourceSpec, layout: Layout, split: Split, seed: int, reward: Reward
) -> list[Task]:
    place = spec.place
    if not place:
        if layout.place is None:
            raise ValueError(f"unknown tasks {spec.text!r}: which file? Write {spec.kind}:PATH")
        place = layout.place()
    holdout = spec.number("holdout", layout.holdout)
    tasks = in_bounds(spec, _read_tasks(spec, layout, place, seed, reward))
    if not tasks:
        raise ValueError(f"{spec.text} holds no tasks")
    return [task for task in tasks if (place_of(task.prompt) < holdout) == (split == "test")]


def _read_tasks(
    spec: SourceSpec, layout: Layout, place: str, seed: int, reward: Reward
) -> Iterator[tuple[Row, Task]]:
    """Every row with its task, in the file's order."""
    rows = read_rows(place, spec.options.get("config", ""), spec.options.get("hub_split", "train"))
    for row in rows:
        try:
            task = layout.read(row, spec, seed)
            if task is None:
                continue
            if not task.prompt.strip():
                raise ValueError("the prompt is empty")
            reward.check(task)
        except (ValueError, SyntaxError, TypeError, KeyError) as error:
            raise ValueError(f"{row.where}: {error}") from error
        yield row, task


def _no_tasks(specs: Sequence[SourceSpec], split: Split) -> str:
    named = ", ".join(spec.text for spec in specs)
    if split == "train":
        return (
            f"{named} has no tasks to train on: all of it is held out for evaluation. "
            "Say @holdout=0.1 to hold out a tenth"
        )
    return (
        f"{named} has too few tasks for a test split; add more rows, or say @holdout=0.5, or "
        "@holdout=1 to evaluate on all of them"
    )
