"""Evaluation: a policy on held-out tasks, with confidence intervals over the tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np

from cleaner_env.episode_io import episode_to_dict
from cleaner_env.task import Task
from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.eval.statistics import (
    CrossedBootstrap,
    Measure,
    majority,
    pass_at_k,
    standard_error,
)
from cleaner_rl.models.memory import memory_errors
from cleaner_rl.models.policy import Policy
from cleaner_rl.rollout.rollout import Rollout
from cleaner_rl.rollout.runner import FinishedEpisode, Job
from cleaner_rl.runs.metrics import METRICS, EpisodeSummary, Metric
from cleaner_rl.settings import EpisodeConfig, Precision

Problems = Sequence[Sequence[EpisodeSummary]]
"""The episodes of each problem, without those that were spoilt."""

_LEFT_OUT = ("accuracy", "first_attempt_success")
"""Metrics not taken from the table: accuracy comes first here, the other is for comparisons."""
_ZERO_WITHOUT_CALLS = ("first_call_failed", "recovery")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of an evaluation. Episodes that the sandbox or a scorer spoilt do not count.

    Attributes:
        samples: the number of episodes requested per task.
        metrics: ``accuracy`` (avg@n: mean over all episodes), ``pass@k``, ``majority@n``, and those
            of ``METRICS``. ``first_call_failed`` and ``recovery`` are 0 if there was no call; token
            metrics are missing if nobody counted tokens.
        intervals_95: 95% confidence intervals over problems, for the metrics that have one.
        standard_errors: those of ``accuracy`` and ``failed_calls``, over tasks.
        families: the metrics of each task family.
        measures: the sums that metrics are computed from, for comparisons.
        rows: the episodes, see ``episode_row``.
    """

    tasks: int
    episodes: int
    samples: int
    metrics: dict[str, float]
    intervals_95: dict[str, list[float]]
    standard_errors: dict[str, float]
    families: dict[str, dict[str, float]]
    measures: Mapping[str, Measure]
    rows: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], samples: int, seed: int = 0) -> Evaluation:
        """Evaluate saved episodes: at least one, in any order."""
        episodes = [EpisodeSummary.read(row) for row in rows]
        problems = by_problem(episodes, sorted({episode.problem for episode in episodes}))
        families: dict[str, list[EpisodeSummary]] = {}
        for episode in episodes:
            families.setdefault(episode.family, []).append(episode)
        measures = _measures(problems, samples)
        intervals = CrossedBootstrap(1, len(problems), seed).intervals(measures)
        return cls(
            tasks=len(problems),
            episodes=len(episodes),
            samples=samples,
            metrics=_values(measures),
            intervals_95={name: list(ends) for name, ends in intervals.items()},
            standard_errors={n: _error(measures[n]) for n in ("accuracy", "failed_calls")},
            families={name: _family(families[name], samples) for name in sorted(families)},
            measures=measures,
            rows=rows,
        )

    def summary(self) -> dict[str, Any]:
        """The figures as plain data for JSON."""
        names = [field.name for field in fields(self) if field.name not in ("measures", "rows")]
        return {name: getattr(self, name) for name in names}


def difference(
    first: Evaluation, second: Evaluation, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """``second - first`` with its 95% interval, for metrics that have an interval in both; empty if
    the two do not have the same problems left, which could not be paired."""
    left = [{row["problem"]: row["episode"]["task"] for row in of.rows} for of in (first, second)]
    if left[0] != left[1]:
        return {}
    before, after = ({n: of.measures[n] for n in of.intervals_95} for of in (first, second))
    intervals = CrossedBootstrap(1, first.tasks, seed).differences(before, after)
    return {n: (second.metrics[n] - first.metrics[n], *ends) for n, ends in intervals.items()}


def by_problem(episodes: Iterable[EpisodeSummary], problems: Iterable[int]) -> Problems:
    """Group episodes by problem, in the order of ``problems``."""
    groups: dict[int, list[EpisodeSummary]] = {problem: [] for problem in problems}
    for episode in episodes:
        groups[episode.problem].append(episode)
    return list(groups.values())


def measure(metric: Metric, seeds: Sequence[Problems]) -> Measure:
    """A metric's sum and weight for each seed and problem."""
    parts = [[list(map(metric.part, episodes)) for episodes in of_seed] for of_seed in seeds]
    totals = [[sum(total for total, _ in of) for of in of_seed] for of_seed in parts]
    counts = [[sum(count for _, count in of) for of in of_seed] for of_seed in parts]
    return Measure(np.array(totals, float), np.array(counts, float), metric.share)


def _measures(problems: Problems, samples: int) -> dict[str, Measure]:
    """The measure of every metric; pass@k counts only problems with at least k episodes left."""
    measures = {"accuracy": measure(METRICS["accuracy"], [problems])}
    for k in (2**i for i in range(samples.bit_length())):  # up to the number of samples
        measures[f"pass@{k}"] = _over_problems(problems, partial(_pass_at, k), least=k)
    if samples > 1:
        measures[f"majority@{samples}"] = _over_problems(problems, _majority)
    others = {name: metric for name, metric in METRICS.items() if name not in _LEFT_OUT}
    return measures | {name: measure(metric, [problems]) for name, metric in others.items()}


def _pass_at(k: int, episodes: Sequence[EpisodeSummary]) -> float:
    return pass_at_k(len(episodes), sum(episode.correct for episode in episodes), k)


def _majority(episodes: Sequence[EpisodeSummary]) -> float:
    return majority((episode.answer, episode.correct) for episode in episodes)


def _over_problems(
    problems: Problems, value: Callable[[Sequence[EpisodeSummary]], float], least: int = 1
) -> Measure:
    """A share that is defined per problem, over problems with at least ``least`` episodes."""
    counted = [len(episodes) >= least for episodes in problems]
    values = [value(of) if enough else 0.0 for of, enough in zip(problems, counted, strict=True)]
    return Measure(np.array([values], float), np.array([counted], float), share=True)


def _values(measures: Mapping[str, Measure]) -> dict[str, float]:
    return {
        name: measure.value or 0.0
        for name, measure in measures.items()
        if measure.value is not None or name in _ZERO_WITHOUT_CALLS
    }


def _family(episodes: Sequence[EpisodeSummary], samples: int) -> dict[str, float]:
    problems = dict.fromkeys(episode.problem for episode in episodes)
    return _values(_measures(by_problem(episodes, problems), samples))


def _error(measure: Measure) -> float:
    return standard_error((measure.total_SP / measure.count_SP)[0].tolist())


def evaluate(
    policy: Policy,
    tasks: Sequence[Task],
    config: EpisodeConfig,
    *,
    samples: int = 1,
    seed: int = 0,
    dtype: Precision = "float32",
    on_progress: Callable[[int, int], None] | None = None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Play every task ``samples`` times; ``saar="off"`` measures the policy itself.

    Each rank plays a share of the episodes and returns the evaluation of all. Every episode has its
    own random numbers, so it does not depend on which rank plays it. ``on_progress`` is called with
    the number of finished episodes of this process and the number of all its episodes.
    """
    ranks = ranks or Ranks()
    jobs = evaluation_jobs(tasks, samples, seed)
    mine = [jobs[i] for i in ranks.share(len(jobs))]

    def play() -> list[dict[str, Any]]:
        rows = []
        with (
            memory_errors("sampling", policy.device),
            Rollout.open(policy, config, dtype) as rollout,
        ):
            for done, played in enumerate(rollout.stream(mine, len(mine)), start=1):
                if not played.episode.faulted:
                    rows.append(episode_row(played, samples))
                if on_progress is not None:
                    on_progress(done, len(mine))
        return rows

    rows = [row for part in ranks.collect(play) for row in part]
    return Evaluation.of(rows, samples, seed)


def evaluation_jobs(tasks: Sequence[Task], samples: int, seed: int) -> list[Job]:
    """The episodes of an evaluation, with the samples of a task next to each other."""
    repeated = [task for task in tasks for _ in range(samples)]
    return [Job(index, task, seed + index) for index, task in enumerate(repeated)]


def episode_row(played: FinishedEpisode, samples: int) -> dict[str, Any]:
    """A finished episode as plain data for JSON, which ``EpisodeSummary.read`` reads."""
    problem, sample = divmod(played.job.index, samples)
    return {
        "index": played.job.index,
        "problem": problem,
        "sample": sample,
        "seconds": round(played.seconds, 3),
        "episode": episode_to_dict(played.episode),
    }
