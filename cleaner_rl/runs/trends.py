"""Trends: signs in the metrics of a run that it is lost, which cost nothing to see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cleaner_rl.errors import UserError
from cleaner_rl.settings import StopWhen

STEPS = 20
"""Steps in a row for which a sign has to be there."""
Row = Mapping[str, Any]
_SIGNS: dict[StopWhen, tuple[Callable[[Row], bool], str]] = {
    "no-signal": (
        lambda row: row["groups_with_signal"] == 0,
        "no group taught anything, as all its rewards were equal; try other tasks, a larger "
        "--group-size, or --dynamic-sampling",
    ),
    "no-calls": (lambda row: row["calls"] == 0, "the model never called the tool"),
    "no-answers": (
        lambda row: row["answered"] == 0,
        "no episode ended with an answer: the model does nothing but call, or runs into a budget "
        "(--max-turns, --max-response-tokens)",
    ),
    "low-entropy": (
        lambda row: row["trained_tokens"] > 0 and row["entropy"] < 0.01,
        "the entropy was below 0.01 nats, so the episodes of a group hardly differ; start again "
        "with a lower --learning-rate or a higher --clip-high",
    ),
}


class Trends:
    """For how many steps in a row each sign has been there; ``rows`` are the steps so far."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._lasted: Counter[StopWhen] = Counter()
        for row in rows:
            self.add(row)

    def add(
        self, row: Row, say: Callable[[str], None] | None = None, stop_when: StopWhen = "never"
    ) -> None:
        """Count a step, and warn of every sign that has lasted for another ``STEPS`` steps.

        Raises:
            UserError: it is one to stop for.
        """
        for name, (there, meaning) in _SIGNS.items():
            self._lasted[name] = self._lasted[name] + 1 if row["episodes"] and there(row) else 0
            if say is None or not self._lasted[name] or self._lasted[name] % STEPS:
                continue
            text = f"for {self._lasted[name]} steps, {meaning}"
            if stop_when in (name, "any"):
                raise UserError(f"{text} (--stop-when {stop_when})")
            say(f"warning: {text}")
