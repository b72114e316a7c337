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


def in_bounds(spec: SourceSpec, pairs: Iterable[tuple[Row, Task]]) -> list[Task]:
    """The tasks whose success rate lies between two bounds, both included; all without bounds.

    Options of the spec: ``rate=COLUMN`` of the rows themselves, or ``rates=FILE`` with the columns
    ``prompt`` (or ``task.prompt``) and ``rate`` (or ``success_rate``, or ``score``: rows with the
    same prompt are averaged, so that the ``episodes.jsonl`` of an evaluation can be given as it
    is); ``min_rate`` and ``max_rate``; ``unrated=drop`` or ``unrated=keep``.
    """
    low, high = spec.number("min_rate", 0.0), spec.number("max_rate", 1.0)
    unrated = spec.choice("unrated", ("refuse", "keep", "drop"))
    column, file = spec.options.get("rate"), spec.options.get("rates")
    bounded = "min_rate" in spec.options or "max_rate" in spec.options
    if (column and file) or bool(column or file) != bounded or low > high:
        raise ValueError(
            f"{spec.text}: give either rate=COLUMN or rates=FILE, and min_rate or max_rate or "
            "both, the smaller first"
        )
    if not bounded:
        return [task for _, task in pairs]
    known = _read_rates(file) if file else {}
    tasks: list[Task] = []
    without: list[str] = []
    for row, task in pairs:
        rate = _rate(row, column) if column else known.get(task.prompt)
        if rate is None:
            without.append(row.where)
        if low <= rate <= high if rate is not None else unrated == "keep":
            tasks.append(task)
    if without and unrated == "refuse":
        raise ValueError(
            f"{len(without)} problems have no success rate, the first is {without[0]}; "
            "say unrated=drop or unrated=keep"
        )
    return tasks


def _rate(row: Row, column: str) -> float | None:
    """The rate in a row; the column may be empty, but not missing."""
    value = row.get(column)
    if value is not None:
        return _number(value)
    if column.partition(".")[0].lower() not in {str(key).lower() for key in row.values}:
        row.need(column)  # raises ValueError
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
