"""Outcome: what the evaluation counts of one finished episode, read from its saved form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """One episode in numbers.

    Attributes:
        problem: index of the task.
        family: of the task.
        answer: the final answer; None when there is none.
        correct: the scorer gave full marks.
        answered: the episode ended with an answer.
        truncated: it ran into a budget.
        first_call_failed: None without a call.
        mended: for each failed call, whether the next call worked (False when there was none).
        stats: the episode's counts, see ``EpisodeStats``.
        tokens: sampled tokens; None when neither a sampler nor an endpoint counted them.
        discarded: those of them that rollback took away; None when only an endpoint counted.
        seconds: wall time, other episodes being played beside it.
    """

    problem: int
    family: str
    answer: str | None
    correct: bool
    answered: bool
    truncated: bool
    first_call_failed: bool | None
    mended: tuple[bool, ...]
    stats: Mapping[str, int]
    tokens: int | None
    discarded: int | None
    seconds: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Outcome:
        """The outcome of a row of ``episodes.jsonl``."""
        episode = row["episode"]
        worked = [bool(turn["ok"]) for turn in episode["raw_turns"] if turn["ok"] is not None]
        stats, usage = episode["stats"], row.get("usage")
        sampled = stats["tokens_sampled"] or None
        return cls(
            problem=row["problem"],
            family=episode["task"]["family"],
            answer=episode["answer"],
            correct=episode["score"] >= 1.0,
            answered=episode["terminated"],
            truncated=episode["truncated"],
            first_call_failed=not worked[0] if worked else None,
            mended=tuple(
                after for ok, after in zip(worked, [*worked[1:], False], strict=False) if not ok
            ),
            stats=stats,
            tokens=sampled if usage is None else usage["completion_tokens"],
            discarded=None if sampled is None else stats["tokens_discarded"],
            seconds=row["seconds"],
        )
