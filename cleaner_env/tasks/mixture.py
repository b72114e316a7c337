"""TaskMixture: several sources as one, each with its share of the indices."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from cleaner_env.task import Task
from cleaner_env.tasks.sources import TaskList, TaskSource, select_tasks, task_count

_BLOCK = 1000
"""Indices over which the shares are kept exactly."""


class TaskMixture:
    """Tasks of several sources; of every thousand indices each source has its share.

    Within a source the tasks come in its own order, so none comes twice before all have come.
    Weights are relative to each other; the seed orders the turns that the sources take.
    """

    def __init__(
        self, sources: Sequence[TaskSource], weights: Sequence[float], seed: int = 0
    ) -> None:
        if not sources or len(sources) != len(weights) or not all(w > 0 for w in weights):
            raise ValueError(f"a mixture needs sources, and a weight above 0 for each: {weights}")
        self._sources, self._weights, self._seed = list(sources), list(weights), seed
        shares = _shares(weights)
        turns = [which for which, share in enumerate(shares) for _ in range(share)]
        random.Random(seed).shuffle(turns)
        seen = [0] * len(sources)
        self._turns: list[tuple[int, int]] = []
        for which in turns:
            self._turns.append((which, seen[which]))
            seen[which] += 1
        self._shares = shares

    def __getitem__(self, index: int) -> Task:
        """Task ``index``, the same one each time."""
        which, inner = self._place(index)
        return self._sources[which][inner]

    def _place(self, index: int) -> tuple[int, int]:
        block, position = divmod(index, len(self._turns))
        which, rank = self._turns[position]
        return which, block * self._shares[which] + rank

    def first(self, count: int) -> list[Task]:
        """The first ``count`` tasks of which none is drawn twice, fewer where there are fewer."""
        sizes = [task_count(source) for source in self._sources]
        left = [float("inf") if size is None else size for size in sizes]
        tasks: list[Task] = []
        index = 0
        while len(tasks) < count and any(left):
            which, inner = self._place(index)
            index += 1
            if left[which]:
                left[which] -= 1
                tasks.append(self._sources[which][inner])
        return tasks

    def fitting(self, fits: Callable[[Task], bool]) -> tuple[TaskSource | None, int]:
        """The tasks that fit, None if there are none, and the number of the others. Endless sources
        stay as they are."""
        found: list[tuple[TaskSource | None, int]] = [
            source.fitting(fits) if isinstance(source, TaskList | TaskMixture) else (source, 0)
            for source in self._sources
        ]
        left_out = sum(count for _, count in found)
        pairs = zip((source for source, _ in found), self._weights, strict=True)
        kept = [(source, weight) for source, weight in pairs if source is not None]
        if not left_out or not kept:
            return (self if kept else None), left_out
        return TaskMixture([s for s, _ in kept], [w for _, w in kept], self._seed), left_out

    def select(self, family: str | None = None, difficulty: str | None = None) -> TaskSource:
        """The tasks of a family, of a difficulty, or both, from the sources that have such."""
        chosen: list[tuple[TaskSource, float]] = []
        reasons: list[str] = []
        for source, weight in zip(self._sources, self._weights, strict=True):
            try:
                chosen.append((select_tasks(source, family, difficulty), weight))
            except ValueError as error:
                reasons.append(str(error))
        if not chosen:
            raise ValueError("; ".join(reasons))
        return TaskMixture([s for s, _ in chosen], [w for _, w in chosen], self._seed)


def _shares(weights: Sequence[float]) -> list[int]:
    """Each weight's share of a block, at least 1, by largest remainder."""
    if len(weights) == 1:
        return [1]
    exact = [max(1.0, weight / sum(weights) * _BLOCK) for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: max(0, _BLOCK - sum(shares))]:
        shares[i] += 1
    return shares
