"""Evaluation: a policy on held-out tasks, with confidence intervals over the tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from cleaner_env.episode import Episode
from cleaner_env.tasks import Task
from cleaner_rl.metrics import by_family, episode_metrics, standard_error
from cleaner_rl.policy import Policy
from cleaner_rl.precision import Precision
from cleaner_rl.rollout import Rollout, RolloutConfig
from cleaner_rl.sampler import Sampler


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out.

    Attributes:
        metrics: see ``episode_metrics``.
        errors: standard error over tasks of ``accuracy`` and ``failed_calls``.
        families: metrics of each task family.
        episodes: all of them, the samples of a task next to each other.
        samples: episodes for each task.
        tasks: how many there were. Episodes that faults of the sandbox spoilt are in none of this.
    """

    metrics: dict[str, float]
    errors: dict[str, float]
    families: dict[str, dict[str, float]]
    episodes: list[Episode]
    samples: int
    tasks: int

    def summary(self) -> dict[str, Any]:
        """Everything but the episodes, as plain data for JSON."""
        return {
            "tasks": self.tasks,
            "episodes": len(self.episodes),
            "samples": self.samples,
            "metrics": self.metrics,
            "standard_errors": self.errors,
            "families": self.families,
        }


def evaluate(
    policy: Policy,
    tasks: Sequence[Task],
    config: RolloutConfig,
    *,
    samples: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_batch: int = 128,
    seed: int = 0,
    dtype: Precision = "float32",
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Play every task ``samples`` times and count.

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
        on_progress: called with the numbers of finished and of all episodes.
    """
    sampler = Sampler(policy, temperature, top_p, max_batch, seed, dtype)
    with Rollout(policy, sampler, config) as rollout:
        episodes = rollout.play([task for task in tasks for _ in range(samples)], seed, on_progress)
    groups = [episodes[i : i + samples] for i in range(0, len(episodes), samples)]
    groups = [[e for e in group if not e.faulted] for group in groups]
    groups = [group for group in groups if group]
    episodes = [episode for group in groups for episode in group]
    return Evaluation(
        metrics=episode_metrics(episodes),
        errors={
            "accuracy": standard_error([fmean(e.correct for e in g) for g in groups]),
            "failed_calls": standard_error([fmean(e.stats.failures for e in g) for g in groups]),
        },
        families=by_family(episodes),
        episodes=episodes,
        samples=samples,
        tasks=len(groups),
    )


def without_rollback(config: RolloutConfig) -> RolloutConfig:
    """The same episodes with SAAR off."""
    return replace(config, rollback=False)
