"""Metrics of a set of episodes: what the log, the evaluation and the report all count alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean
from typing import Any

from cleaner_env.episode import Episode


def episode_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """Means over episodes.

    Returns:
        ``accuracy``: share answered correctly. ``answered``: share that ended with an answer.
        ``failed_calls`` and ``calls``: per episode, every executed or refused call counted, those
        that rollback took away included. ``first_call_failed``: share of the episodes with a call
        whose first call failed. ``recovery``: share of failed calls after which the next call
        worked. ``turns``, ``tokens_sampled``, ``tokens_discarded``, ``triggered``, ``recovered``,
        ``exhausted``, ``shallow``, ``deep``: per episode. ``truncated``: share that ran
        into a budget.
    """
    stats = [episode.stats for episode in episodes]
    first = [e.first_call_failed for e in episodes if e.first_call_failed is not None]
    recoveries = [flag for episode in episodes for flag in _recoveries(episode)]
    return {
        "accuracy": fmean(episode.correct for episode in episodes),
        "answered": fmean(episode.terminated for episode in episodes),
        "failed_calls": fmean(s.failures for s in stats),
        "calls": fmean(s.calls for s in stats),
        "first_call_failed": fmean(first) if first else 0.0,
        "recovery": fmean(recoveries) if recoveries else 0.0,
        "turns": fmean(s.turns for s in stats),
        "tokens_sampled": fmean(s.tokens_sampled for s in stats),
        "tokens_discarded": fmean(s.tokens_discarded for s in stats),
        "triggered": fmean(s.triggered for s in stats),
        "recovered": fmean(s.recovered for s in stats),
        "exhausted": fmean(s.exhausted for s in stats),
        "shallow": fmean(s.shallow for s in stats),
        "deep": fmean(s.deep for s in stats),
        "truncated": fmean(episode.truncated for episode in episodes),
    }


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of independent values; 0 for fewer than two."""
    if len(values) < 2:
        return 0.0
    mean = fmean(values)
    return sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def _recoveries(episode: Episode) -> list[bool]:
    """For each failed call, whether the next call worked (False when there was none)."""
    calls = [turn for turn in episode.raw_turns if turn.ok is not None]
    following = [*calls[1:], None][: len(calls)]
    return [
        after is not None and not after.failed
        for turn, after in zip(calls, following, strict=True)
        if turn.failed
    ]


@dataclass(frozen=True, slots=True)
class EpisodeSummary:
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
    def of(cls, row: Mapping[str, Any]) -> EpisodeSummary:
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
