"""Rates: how often each problem is solved, and the problems that are worth training on.

A problem that is solved always, or never, gives a group of episodes no advantage. CLEANER's recipe
for the 7B model drops the prompts that are too easy or too hard for it.
"""

from __future__ import annotations

from collections.abc import Iterable

from cleaner_env.task import Task
from cleaner_env.tasks.rows import Row, read_rows
from cleaner_env.tasks.spec import SourceSpec

OPTIONS = ("rate", "rates", "min_rate", "max_rate", "unrated")


class RateFilter:
    """Keeps the tasks whose success rate lies between two bounds, both included.

    Options of the spec: ``rate=COLUMN`` of the rows themselves, or ``rates=FILE`` with the columns
    ``prompt`` (or ``task.prompt``) and ``rate`` (or ``success_rate``, or ``score``: rows with the
    same prompt are averaged, so that the ``episodes.jsonl`` of an evaluation can be given as it
    is); ``min_rate`` and ``max_rate``; ``unrated=drop`` or ``unrated=keep``.
    """

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self._column = spec.options.get("rate")
        self._low, self._high = spec.number("min_rate", 0.0), spec.number("max_rate", 1.0)
        self._unrated = spec.choice("unrated", ("refuse", "keep", "drop"))
        rated = {"rate", "rates"} & set(spec.options)
        bounded = {"min_rate", "max_rate"} & set(spec.options)
        if len(rated) == 2 or bool(rated) != bool(bounded) or self._low > self._high:
            raise ValueError(
                f"{spec.text}: give either rate=COLUMN or rates=FILE, and min_rate or max_rate or "
                "both, the smaller first"
            )
        self._known = _read_rates(spec.options["rates"]) if "rates" in rated else {}
        self._active = bool(rated)

    def kept(self, pairs: Iterable[tuple[Row, Task]]) -> list[Task]:
        """The tasks within the bounds."""
        if not self._active:
            return [task for _, task in pairs]
        tasks: list[Task] = []
        unrated: list[str] = []
        for row, task in pairs:
            rate = self._rate(row, task)
            if rate is None:
                unrated.append(row.where)
            if self._low <= rate <= self._high if rate is not None else self._unrated == "keep":
                tasks.append(task)
        if unrated and self._unrated == "refuse":
            raise ValueError(
                f"{len(unrated)} problems have no success rate, the first is {unrated[0]}; "
                "say unrated=drop or unrated=keep"
            )
        return tasks

    def _rate(self, row: Row, task: Task) -> float | None:
        if self._column is None:
            return self._known.get(task.prompt)
        value = row.get(self._column)
        if value is not None:
            return _number(value)
        if self._column.partition(".")[0].lower() not in {str(key).lower() for key in row.values}:
            row.need(self._column)  # raises: an empty value is no rate, but a column has to be
        return None


def _read_rates(place: str) -> dict[str, float]:
    """Success rate by prompt, the mean over the rows of a prompt."""
    rates: dict[str, list[float]] = {}
    for row in read_rows(place):
        try:
            prompt = row.text("prompt", "task.prompt")
            rate = _number(row.need("rate", "success_rate", "score"))
        except ValueError as error:
            raise ValueError(f"{row.where}: {error}") from error
        rates.setdefault(prompt, []).append(rate)
    return {prompt: sum(values) / len(values) for prompt, values in rates.items()}


def _number(value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError(f"a success rate lies between 0 and 1; {value!r} does not")
    return number
