"""Metrics of episodes: one table for the training log, evaluations and reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cleaner_env.episode import Episode


@dataclass(frozen=True, slots=True)
class EpisodeSummary:
    """One episode in numbers.

    Attributes:
        answered: whether it ended with an answer.
        truncated: whether it ran into a budget.
        worked: whether each call worked, in order.
        stats: the counts of ``EpisodeStats``.
        sampled: sampled tokens; None if neither a sampler nor an endpoint counted them.
        discarded: those that rollback discarded; None if only an endpoint counted tokens.
        problem: index of the task.
        seconds: wall time, while other episodes were played as well.
    """

    correct: bool
    answered: bool
    truncated: bool
    answer: str | None
    worked: Sequence[bool]
    stats: Mapping[str, int]
    sampled: int | None
    discarded: int | None
    problem: int = 0
    family: str = ""
    seconds: float = 0.0

    @classmethod
    def of(cls, episode: Episode) -> EpisodeSummary:
        """Summarise an episode that has just been played."""
        stats = episode.stats
        return cls(
            correct=episode.correct,
            answered=episode.terminated,
            truncated=episode.truncated,
            answer=episode.answer,
            worked=[not turn.failed for turn in episode.raw_turns if turn.ok is not None],
            stats=asdict(stats),
            sampled=stats.tokens_sampled,
            discarded=stats.tokens_discarded,
            family=episode.task.family,
        )

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> EpisodeSummary:
        """Summarise a saved episode, a row of ``episodes.jsonl``."""
        episode, usage = row["episode"], row.get("usage")
        stats = episode["stats"]
        sampled = stats["tokens_sampled"] or None
        return cls(
            correct=episode["score"] >= 1.0,
            answered=episode["terminated"],
            truncated=episode["truncated"],
            answer=episode["answer"],
            worked=[bool(turn["ok"]) for turn in episode["raw_turns"] if turn["ok"] is not None],
            stats=stats,
            sampled=sampled if usage is None else usage["completion_tokens"],
            discarded=None if sampled is None else stats["tokens_discarded"],
            problem=row["problem"],
            family=episode["task"]["family"],
            seconds=row["seconds"],
        )

    @property
    def corrected(self) -> list[bool]:
        """For each failed call, whether the next call worked; False when there was none."""
        following = [*self.worked[1:], False]
        return [then for ok, then in zip(self.worked, following, strict=False) if not ok]


Part = Callable[[EpisodeSummary], tuple[float, float]]
"""An episode's addend to a metric's sum, and its weight, which is 0 if the metric ignores it."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A sum over episodes, divided by the sum of their weights. Reports use label and format."""

    label: str
    format: str
    part: Part
    share: bool
    """Whether the value always lies between 0 and 1."""


def _share(label: str, part: Part) -> Metric:
    return Metric(label, "{:.1%}", part, share=True)


def _mean(label: str, part: Part, form: str = "{:.1f}") -> Metric:
    return Metric(label, form, part, share=False)


def _count(label: str, name: str, form: str = "{:.2f}") -> Metric:
    return _mean(label, lambda e: (e.stats[name], 1), form)


def _if_known(value: float | None) -> tuple[float, float]:
    return (0, 0) if value is None else (value, 1)


METRICS: dict[str, Metric] = {
    "accuracy": _share("accuracy", lambda e: (e.correct, 1)),
    "answered": _share("episodes that end with an answer", lambda e: (e.answered, 1)),
    "answer_found": _share("answers that can be graded", lambda e: (e.answer is not None, 1)),
    "first_attempt_success": _share(
        "first attempts that work",
        lambda e: (e.stats["first_attempt_successes"], e.stats["first_attempt_calls"]),
    ),
    "first_call_failed": _share(
        "episodes whose first call fails",
        lambda e: _if_known(not e.worked[0] if e.worked else None),
    ),
    "recovery": _share(
        "failed calls corrected by the next call", lambda e: (sum(e.corrected), len(e.corrected))
    ),
    "truncated": _share("episodes that run into a budget", lambda e: (e.truncated, 1)),
    "failed_calls": _count("failed calls per episode", "failures"),
    "calls": _count("calls per episode", "calls"),
    "turns": _count("turns per episode", "turns"),
    "tokens_sampled": _mean("sampled tokens per episode", lambda e: _if_known(e.sampled)),
    "tokens_discarded": _mean(
        "tokens discarded by rollback per episode", lambda e: _if_known(e.discarded)
    ),
    "triggered": _count("rollbacks per episode", "triggered"),
    "recovered": _count("rollbacks that recover per episode", "recovered"),
    "exhausted": _count("rollbacks that exhaust their retries per episode", "exhausted"),
    "shallow": _count("shallow splices per episode", "shallow", "{:.3f}"),
    "deep": _count("deep splices per episode", "deep", "{:.3f}"),
    "seconds": _mean("seconds per episode", lambda e: (e.seconds, 1)),
}
"""Every executed or refused call counts, including those that rollback removed."""
_NOT_LOGGED = ("answer_found", "first_attempt_success", "seconds")

LABELS: dict[str, tuple[str, str]] = {
    **{name: (metric.label, metric.format) for name, metric in METRICS.items()},
    "reward": ("reward", "{:.3f}"),
    "entropy": ("entropy (nats per token)", "{:.3f}"),
    "grafted_share": ("trained tokens that are grafted", "{:.2%}"),
    "grafted_gap": ("log-prob gap of grafted tokens (nats)", "{:.2f}"),
    "sampled_gap": ("log-prob gap of sampled tokens (nats)", "{:.1e}"),
    "groups_with_signal": ("groups with a learning signal", "{:.1%}"),
    "clipped": ("trained tokens that are clipped", "{:.2%}"),
    "kl": ("divergence from the policy before the step (nats)", "{:.1e}"),
    "grad_norm": ("norm of the gradient", "{:.2f}"),
}
"""Label and format of everything that results hold, including metrics of training steps."""


def episode_metrics(episodes: Iterable[Episode]) -> dict[str, float]:
    """The metrics of a training step; 0 where no episode counts."""
    summaries = [EpisodeSummary.of(episode) for episode in episodes]
    values = {}
    for name, metric in METRICS.items():
        if name not in _NOT_LOGGED:
            parts = [metric.part(summary) for summary in summaries]
            count = sum(count for _, count in parts)
            values[name] = sum(total for total, _ in parts) / count if count else 0.0
    return values
