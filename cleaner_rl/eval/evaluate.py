"""Evaluation: a policy on held-out tasks, with confidence intervals over the tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from cleaner_env.episode_io import episode_to_dict
from cleaner_env.task import Task
from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.eval.statistics import (
    Sums,
    differences,
    intervals,
    majority,
    pass_at_k,
    powers_of_two,
)
from cleaner_rl.inference.sampler import Sampler
from cleaner_rl.models.memory import exhaustion_said
from cleaner_rl.models.policy import Policy
from cleaner_rl.rollout.environment import EpisodeConfig
from cleaner_rl.rollout.rollout import Rollout
from cleaner_rl.rollout.runner import FinishedEpisode, Job
from cleaner_rl.runs.metrics import EpisodeSummary, standard_error
from cleaner_rl.settings import Precision

Part = Callable[[EpisodeSummary], Iterable[float]]
"""What an episode adds to a metric; nothing where the metric does not apply to it."""

_SHARES: dict[str, Part] = {
    "answered": lambda o: [o.answered],
    "answer_found": lambda o: [o.answer is not None],
    "first_call_failed": lambda o: [] if o.first_call_failed is None else [o.first_call_failed],
    "recovery": lambda o: o.mended,
    "truncated": lambda o: [o.truncated],
}
_MEANS: dict[str, Part] = {
    "failed_calls": lambda o: [o.stats["failures"]],
    "calls": lambda o: [o.stats["calls"]],
    "turns": lambda o: [o.stats["turns"]],
    "tokens_sampled": lambda o: [] if o.tokens is None else [o.tokens],
    "tokens_discarded": lambda o: [] if o.discarded is None else [o.discarded],
    "triggered": lambda o: [o.stats["triggered"]],
    "recovered": lambda o: [o.stats["recovered"]],
    "exhausted": lambda o: [o.stats["exhausted"]],
    "shallow": lambda o: [o.stats["shallow"]],
    "deep": lambda o: [o.stats["deep"]],
    "seconds": lambda o: [o.seconds],
}
_ZERO_WITHOUT_CALLS = ("first_call_failed", "recovery")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out.

    Attributes:
        metrics: ``accuracy`` (avg@n: mean over all episodes), ``pass@k``, ``majority@n``, and means
            over episodes as in ``episode_metrics``; ``answer_found`` is the share with a
            ``\\boxed{}`` to be graded. ``first_call_failed`` and ``recovery`` are 0
            where there was no call; tokens are missing where nobody counted them.
        intervals: 95% intervals over problems, for the metrics that have them.
        errors: standard error over tasks of ``accuracy`` and ``failed_calls``.
        families: metrics of each task family.
        samples: episodes asked for each task.
        tasks: how many there were. Episodes that faults spoilt are in none of this.
        episodes: how many there were.
        sums: what the metrics are made of, for comparisons.
        rows: of the episodes, see ``episode_row``.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    errors: dict[str, float]
    families: dict[str, dict[str, float]]
    samples: int
    tasks: int
    episodes: int
    sums: Mapping[str, Sums]
    rows: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]], samples: int, seed: int = 0) -> Evaluation:
        """The evaluation of saved episodes.

        Args:
            rows: rows of ``episodes.jsonl``, at least one, in any order.
            samples: episodes asked for each task.
            seed: of the bootstrap.
        """
        rows = list(rows)
        outcomes = [EpisodeSummary.of(row) for row in rows]
        problems = _by(outcomes, lambda outcome: outcome.problem)
        families = _by(outcomes, lambda outcome: outcome.family)
        sums = metric_sums([problems[index] for index in sorted(problems)], samples)
        return cls(
            metrics=_values(sums),
            intervals=intervals(sums, seed),
            errors={name: _error(sums[name]) for name in ("accuracy", "failed_calls")},
            families={name: _family(families[name], samples) for name in sorted(families)},
            samples=samples,
            tasks=len(problems),
            episodes=len(outcomes),
            sums=sums,
            rows=rows,
        )

    def summary(self) -> dict[str, Any]:
        """The figures as plain data for JSON."""
        return {
            "tasks": self.tasks,
            "episodes": self.episodes,
            "samples": self.samples,
            "metrics": self.metrics,
            "intervals_95": {name: list(ends) for name, ends in self.intervals.items()},
            "standard_errors": self.errors,
            "families": self.families,
        }


def difference(
    first: Evaluation, second: Evaluation, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """``second - first`` on the same tasks, with its 95% interval, for each metric of both.

    Empty when they have not the same tasks left.
    """
    if first.tasks != second.tasks:
        return {}
    ends = differences(first.sums, second.sums, seed)
    return {
        name: (second.metrics[name] - first.metrics[name], low, high)
        for name, (low, high) in ends.items()
    }


def metric_sums(problems: Sequence[Sequence[EpisodeSummary]], samples: int) -> dict[str, Sums]:
    """What every metric is made of.

    Args:
        problems: the outcomes of each problem; those that faults spoilt are missing.
        samples: episodes asked for each problem; pass@k counts problems with at least k left.
    """

    metrics = {"accuracy": _over_episodes(problems, lambda o: [o.correct], True)}
    for k in powers_of_two(samples):
        metrics[f"pass@{k}"] = _over_problems(problems, partial(_pass_at, k), least=k)
    if samples > 1:
        metrics[f"majority@{samples}"] = _over_problems(problems, _majority)
    metrics |= {name: _over_episodes(problems, part, True) for name, part in _SHARES.items()}
    metrics |= {name: _over_episodes(problems, part, False) for name, part in _MEANS.items()}
    return metrics


def _pass_at(k: int, outcomes: Sequence[EpisodeSummary]) -> float:
    return pass_at_k(len(outcomes), sum(outcome.correct for outcome in outcomes), k)


def _majority(outcomes: Sequence[EpisodeSummary]) -> float:
    return majority((outcome.answer, outcome.correct) for outcome in outcomes)


def _over_episodes(problems: Sequence[Sequence[EpisodeSummary]], part: Part, share: bool) -> Sums:
    parts = [[float(x) for outcome in outcomes for x in part(outcome)] for outcomes in problems]
    return Sums(
        np.array([sum(p) for p in parts], float), np.array(list(map(len, parts)), float), share
    )


def _over_problems(
    problems: Sequence[Sequence[EpisodeSummary]],
    value: Callable[[Sequence[EpisodeSummary]], float],
    least: int = 1,
) -> Sums:
    """A share that each problem has as a whole, over those with at least ``least`` episodes."""
    counted = [len(outcomes) >= least for outcomes in problems]
    values = [value(o) if enough else 0.0 for o, enough in zip(problems, counted, strict=True)]
    return Sums(np.array(values, float), np.array(counted, float), True)


def evaluate(
    policy: Policy,
    tasks: Sequence[Task],
    config: EpisodeConfig,
    *,
    samples: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_batch: int = 128,
    seed: int = 0,
    dtype: Precision = "float32",
    cache_tokens: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Play every task ``samples`` times and count.

    An episode's random numbers are its own, so what it is does not depend on who plays it.

    Args:
        policy: to be evaluated.
        tasks: held-out ones.
        config: what an episode is like; evaluate with ``rollback=False`` to see the policy itself.
        samples: episodes for each task.
        temperature: of sampling.
        top_p: of sampling.
        max_batch: conversations decoded together.
        seed: of sampling.
        dtype: precision of the forward passes.
        cache_tokens: see ``Sampler``.
        on_progress: called with the numbers of finished and of all episodes of this process.
        ranks: each plays a share of the episodes and gets the evaluation of all.

    Raises:
        OutageError: faults of the sandbox spoilt too many episodes.
        MemoryLimitError: the device has no memory left.
        RankError: another rank's episodes failed.
    """
    ranks = ranks or Ranks()
    jobs = evaluation_jobs(tasks, samples, seed)
    mine = [jobs[i] for i in ranks.share(len(jobs))]

    def play() -> list[dict[str, Any]]:
        rows = []
        with exhaustion_said("sampling", policy.device):
            sampler = Sampler(
                policy, temperature, top_p, max_batch, seed, dtype, cache_tokens=cache_tokens
            )
            with Rollout(policy, sampler, config) as rollout:
                for done, played in enumerate(rollout.stream(mine, len(mine)), start=1):
                    if not played.episode.faulted:
                        rows.append(episode_row(played, samples))
                    if on_progress is not None:
                        on_progress(done, len(mine))
        return rows

    rows = [row for part in ranks.collect(play) for row in part]
    return Evaluation.of(rows, samples, seed)


def evaluation_jobs(tasks: Sequence[Task], samples: int, seed: int) -> list[Job]:
    """The episodes of an evaluation: the samples of a task next to each other."""
    repeated = [task for task in tasks for _ in range(samples)]
    return [Job(index, task, seed + index) for index, task in enumerate(repeated)]


def episode_row(played: FinishedEpisode, samples: int) -> dict[str, Any]:
    """A finished episode as plain data for JSON; ``EpisodeSummary.of`` reads it."""
    problem, sample = divmod(played.job.index, samples)
    return {
        "index": played.job.index,
        "problem": problem,
        "sample": sample,
        "seconds": round(played.seconds, 3),
        "episode": episode_to_dict(played.episode),
    }


def without_rollback(config: EpisodeConfig) -> EpisodeConfig:
    """The same episodes with SAAR off."""
    return replace(config, rollback=False)


def _family(outcomes: Sequence[EpisodeSummary], samples: int) -> dict[str, float]:
    problems = _by(outcomes, lambda outcome: outcome.problem)
    return _values(metric_sums(list(problems.values()), samples))


def _values(sums: Mapping[str, Sums]) -> dict[str, float]:
    return {
        name: metric.value or 0.0
        for name, metric in sums.items()
        if metric.value is not None or name in _ZERO_WITHOUT_CALLS
    }


def _error(sums: Sums) -> float:
    return standard_error((sums.total_P / sums.count_P).tolist())


def _by(
    outcomes: Iterable[EpisodeSummary], key: Callable[[EpisodeSummary], Any]
) -> dict[Any, list[EpisodeSummary]]:
    groups: dict[Any, list[EpisodeSummary]] = {}
    for outcome in outcomes:
        groups.setdefault(key(outcome), []).append(outcome)
    return groups
