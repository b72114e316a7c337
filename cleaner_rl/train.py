"""Training: ``python -m cleaner_rl.train``. The algorithm reads from top to bottom in ``train``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import count
from typing import Any

import torch

from cleaner_env.completion import Decode
from cleaner_env.episode import Episode
from cleaner_env.episode_io import episode_from_dict, episode_to_dict
from cleaner_env.rewards import overlong_penalty
from cleaner_env.task import Task
from cleaner_rl.config import TrainConfig, parse_arguments
from cleaner_rl.distributed.interrupt import Interrupt
from cleaner_rl.distributed.ranks import Ranks, open_ranks, partition
from cleaner_rl.errors import RankError, UserError, run_command
from cleaner_rl.eval.held_out import evaluate_if_due, evaluate_once
from cleaner_rl.grpo.advantages import (
    branched_advantages,
    error_ratio,
    group_advantages,
    resample_on_correct,
)
from cleaner_rl.grpo.credit import episode_samples, splices
from cleaner_rl.grpo.loss import LOSSES
from cleaner_rl.grpo.samples import Sample
from cleaner_rl.models.memory import exhaustion_said
from cleaner_rl.rollout.rollout import Rollout
from cleaner_rl.runs.loggers import MetricLogger, open_logger
from cleaner_rl.runs.metrics import episode_metrics
from cleaner_rl.runs.progress import TrainingProgress
from cleaner_rl.runs.report import write_report
from cleaner_rl.trainer import Trainer

Group = list[Episode]
"""Episodes that share a prompt."""
_REFILL_START = 500_000_003
"""Index of the first problem that replaces another one."""


def train(trainer: Trainer, progress: TrainingProgress, logger: MetricLogger) -> None:
    """Train on from the trainer's step to ``config.steps``.

    Every step draws its tasks and its random numbers from the seed and its own number, so a resumed
    run goes on as the uninterrupted one would have.

    Raises:
        KeyboardInterrupt: after a signal; the state of the last whole step is saved.
        UserError: the tasks or the sandbox cannot be used.
    """
    config, rollout, ranks = trainer.config, trainer.rollout, trainer.ranks
    with Interrupt() as interrupt, ranks.guarded(interrupt):
        try:
            evaluate_once(trainer, progress, "before")
            evaluate_if_due(trainer, progress)
            for step in range(trainer.step + 1, config.steps + 1):
                began = time.monotonic()
                groups, rewards, skipped = play_step(trainer, step, progress)
                sampled = time.monotonic()
                progress.phase("learning")
                with interrupt.protected():
                    kept = kept_for_training(groups, rewards, config)
                    learned = trainer.learn(training_samples(*kept, rollout, config, ranks))
                    trainer.step = step
                    ended = time.monotonic()
                    metrics = {
                        "step": step,
                        **_rollout_metrics(groups, rewards, config),
                        **learned,
                        "prompts_skipped": skipped,
                        "sandbox_faults": ranks.sum([rollout.sandbox.faults])[0],
                        "tokens_per_second": _tokens(groups) / (ended - began),
                        "sample_seconds": sampled - began,
                        "step_seconds": ended - began,
                    }
                    ranks.on_first(partial(_write, trainer, logger, metrics, groups))
                    ranks.together(trainer.updater.require_finite)
                    if step % config.save_every == 0 or step == config.steps:
                        trainer.save()
                progress.step(step, metrics)
                evaluate_if_due(trainer, progress)
            evaluate_once(trainer, progress, "after")
        except BaseException:
            if trainer.updater.between_steps and ranks.united:
                with interrupt.protected():
                    trainer.save()
            raise
    ranks.on_first(lambda: write_report(trainer.run.path, config))


def play_step(
    trainer: Trainer, step: int, progress: TrainingProgress
) -> tuple[list[Group], list[list[float]], int]:
    """The groups of a step, their rewards, and how many problems were skipped as too long.

    With ``dynamic_sampling`` (DAPO, 2503.14476) further problems are played in the place of those
    that teach nothing, in that many rounds at most.
    """
    config, rollout = trainer.config, trainer.rollout
    groups: list[Group] = []
    rewards: list[list[float]] = []
    skipped = 0
    for refill in range(1 + config.dynamic_sampling):
        wanted = config.prompts - _with_signal(*_chosen(groups, rewards, config), config)
        if wanted < 1:
            break
        tasks, too_long = trainer.ranks.together(partial(step_tasks, trainer, step, refill, wanted))
        played = play_groups(tasks, trainer, step, progress, refill)
        groups += played
        rewards += [[_reward(episode, rollout, config) for episode in g] for g in played]
        skipped += too_long
    return groups, rewards, skipped


def step_tasks(
    trainer: Trainer, step: int, refill: int = 0, wanted: int | None = None
) -> tuple[list[Task], int]:
    """The problems of a step, and how many were skipped because their prompts are too long.

    Args:
        trainer: of the run.
        step: from 1.
        refill: round of dynamic sampling; 0 are the step's own problems.
        wanted: problems of that round, as many as the step has at most; None for as many.

    Raises:
        UserError: all of them are.
    """
    count, limit = trainer.config.prompts, trainer.config.max_prompt_tokens
    start = (step - 1) * count
    if refill:
        # Far from the steps' own problems, of which none must be lost to a refill not needed.
        rounds = trainer.config.dynamic_sampling
        start = _REFILL_START + ((step - 1) * rounds + refill - 1) * count
    tasks = [trainer.source[start + i] for i in range(count if wanted is None else wanted)]
    fitting = [task for task in tasks if trainer.rollout.prompt_length(task) <= limit]
    if not fitting:
        raise UserError(
            f"every prompt of step {step} is longer than {limit} tokens; raise --max-prompt-tokens"
        )
    return fitting, len(tasks) - len(fitting)


def play_groups(
    tasks: Sequence[Task],
    trainer: Trainer,
    step: int,
    progress: TrainingProgress,
    refill: int = 0,
) -> list[Group]:
    """A group of episodes for each problem; those that the sandbox's faults spoilt are left out.

    Each rank plays some of the groups, with the seeds that a single process would give them, and
    has all of them afterwards.
    """
    config, ranks = trainer.config, trainer.ranks
    size = config.group_size * (config.oversample if config.saar == "roc" else 1)
    mine = ranks.share(len(tasks))
    first = _step_seed(config.seed, step) + (refill * config.prompts + mine.start) * size

    def play() -> list[Episode]:
        with exhaustion_said("sampling", trainer.policy.device):
            return trainer.rollout.play(
                [tasks[i] for i in mine for _ in range(size)],
                seed=first,
                on_progress=lambda done, total: progress.phase("playing", done, total),
            )

    episodes = collect_episodes(ranks, play, trainer.policy.decode)
    groups = [episodes[begin : begin + size] for begin in range(0, len(episodes), size)]
    groups = [[episode for episode in group if not episode.faulted] for group in groups]
    return [group for group in groups if len(group) > 1]


def collect_episodes(
    ranks: Ranks, play: Callable[[], list[Episode]], decode: Decode
) -> list[Episode]:
    """What ``play`` gives on every rank, in the order of ranks.

    Episodes travel as the plain data that files of them hold; a single process keeps its own.

    Args:
        ranks: that play.
        play: this rank's episodes.
        decode: turns token ids into text.

    Raises:
        KeyboardInterrupt, RankError: as ``Ranks.collect``.
    """
    if ranks.size == 1:
        return ranks.collect(play)[0]
    played: list[Episode] = []

    def packed() -> list[dict[str, object]]:
        played.extend(play())
        return [episode_to_dict(episode) for episode in played]

    parts = ranks.collect(packed)
    return [
        episode
        for rank, part in enumerate(parts)
        for episode in (
            played if rank == ranks.rank else [episode_from_dict(row, decode) for row in part]
        )
    ]


def kept_for_training(
    groups: Sequence[Group], rewards: Sequence[Sequence[float]], config: TrainConfig
) -> tuple[list[Group], list[list[float]]]:
    """The groups that are learned from: as played, or with ``--saar roc`` the chosen of each.

    With ``dynamic_sampling`` only those that teach something.
    """
    chosen, chosen_rewards = _chosen(groups, rewards, config)
    if not config.dynamic_sampling:
        return chosen, chosen_rewards
    kept = [
        of_group
        for of_group in zip(chosen, chosen_rewards, strict=True)
        if has_signal(*of_group, config)
    ]
    return [group for group, _ in kept], [rewards_G for _, rewards_G in kept]


def _chosen(
    groups: Sequence[Group], rewards: Sequence[Sequence[float]], config: TrainConfig
) -> tuple[list[Group], list[list[float]]]:
    """The groups as they were played, or with ``--saar roc`` the chosen of each."""
    kept: list[Group] = []
    kept_rewards: list[list[float]] = []
    for group, rewards_G in zip(groups, rewards, strict=True):
        chosen = list(range(len(group)))
        if config.saar == "roc":
            chosen = resample_on_correct(
                [episode.correct for episode in group],
                [error_ratio(e.stats.failures, e.stats.calls) for e in group],
                config.group_size,
            )
        kept.append([group[i] for i in chosen])
        kept_rewards.append([rewards_G[i] for i in chosen])
    return kept, kept_rewards


def training_samples(
    groups: Sequence[Group],
    rewards: Sequence[Sequence[float]],
    rollout: Rollout,
    config: TrainConfig,
    ranks: Ranks,
) -> list[list[Sample]]:
    """This rank's samples of each minibatch, each episode with its advantage in its group."""
    advantages = [
        member_advantages(group, rewards_G, config)
        for group, rewards_G in zip(groups, rewards, strict=True)
    ]
    numbers = count()
    minibatches = []
    for begin in range(0, len(groups), config.minibatch_prompts):
        chosen = slice(begin, begin + config.minibatch_prompts)
        episodes = [
            (episode, advantage, next(numbers), of_branches)
            for group, (advantages_G, of_branches) in zip(
                groups[chosen], advantages[chosen], strict=True
            )
            for episode, advantage in zip(group, advantages_G, strict=True)
        ]
        lengths = [episode.stats.tokens_sampled for episode, *_ in episodes]
        minibatches.append(
            [
                sample
                for i in partition(lengths, ranks.size)[ranks.rank]
                for sample in _samples(*episodes[i], rollout, config)
            ]
        )
    return minibatches


def member_advantages(
    group: Group, rewards_G: Sequence[float], config: TrainConfig
) -> tuple[list[float], float]:
    """[G] the advantage of each episode, and that of the branches that they left behind."""
    scaled = LOSSES[config.loss].scaled
    if config.credit != "branched":
        return group_advantages(rewards_G, scaled=scaled), 0.0
    branches = sum(len(splices(episode)) for episode in group)
    failure = config.wrong_reward - config.failure_penalty
    return branched_advantages(rewards_G, branches, failure, scaled)


def has_signal(group: Group, rewards_G: Sequence[float], config: TrainConfig) -> bool:
    """Whether any of a group's advantages, those of branches included, is not zero."""
    advantages, of_branches = member_advantages(group, rewards_G, config)
    return any(advantages) or of_branches != 0.0


def _with_signal(
    groups: Sequence[Group], rewards: Sequence[Sequence[float]], config: TrainConfig
) -> int:
    return sum(has_signal(*of_group, config) for of_group in zip(groups, rewards, strict=True))


def _samples(
    episode: Episode,
    advantage: float,
    number: int,
    branch_advantage: float,
    rollout: Rollout,
    config: TrainConfig,
) -> list[Sample]:
    return episode_samples(
        episode,
        advantage,
        rollout.prompt_ids(episode),
        rollout.observation_ids,
        config.credit,
        config.grafted,
        number,
        branch_advantage,
    )


def _write(
    trainer: Trainer, logger: MetricLogger, metrics: dict[str, Any], groups: Sequence[Group]
) -> None:
    """What is kept of a step besides its checkpoint."""
    step, logged = trainer.step, trainer.config.log_episodes
    trainer.run.log_metrics(metrics)
    logger.log(step, metrics)
    trainer.run.log_episodes(step, [e for group in groups for e in group][:logged])


def _reward(episode: Episode, rollout: Rollout, config: TrainConfig) -> float:
    length = rollout.response_length(episode)
    return episode.reward - overlong_penalty(
        length, config.max_response_tokens, config.overlong_buffer, config.overlong_factor
    )


def _rollout_metrics(
    groups: Sequence[Group], rewards: Sequence[Sequence[float]], config: TrainConfig
) -> dict[str, float]:
    all_rewards = [reward for rewards_G in rewards for reward in rewards_G]
    return {
        "reward": sum(all_rewards) / len(all_rewards),
        "episodes": len(all_rewards),
        "groups": len(groups),
        "groups_with_signal": _with_signal(groups, rewards, config) / len(groups),
        **episode_metrics([episode for group in groups for episode in group]),
    }


def _tokens(groups: Sequence[Group]) -> int:
    return sum(episode.stats.tokens_sampled for group in groups for episode in group)


def _step_seed(seed: int, step: int) -> int:
    """Seeds of different steps, and of their episodes, do not overlap."""
    return seed * 1_000_003_000 + step * 100_003


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the training reached its end, 130 when it was interrupted."""
    config = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    torch.manual_seed(config.seed)
    with open_ranks(config.device, config.rank_timeout) as ranks:
        try:
            return run(config, ranks)
        except UserError:
            if ranks.united and not ranks.first:
                return 2  # the first rank prints the message of all
            raise


def run(config: TrainConfig, ranks: Ranks) -> int:
    """Train as configured, on one of the ranks; the status that ``main`` gives."""
    trainer = Trainer.open(config, ranks)
    path = trainer.run.path
    with (
        trainer.rollout,
        open_logger(
            config.logger if ranks.first else "none", path, asdict(config), trainer.step
        ) as logger,
        TrainingProgress(trainer.step, config.steps, ranks.console()) as progress,
    ):
        progress.say(f"run directory: {path}")
        try:
            train(trainer, progress, logger)
        except KeyboardInterrupt:
            progress.say(f"stopped after step {trainer.step}. {_saved(trainer)}")
            return 130
        except UserError as error:
            raise type(error)(f"{error}\n{_saved(trainer)}") from error
        except RuntimeError as error:
            if not ranks.lost_another(error):
                raise
            raise RankError(
                f"rank {ranks.rank} lost another one, whose own message says why.\n"
                f"{_saved(trainer)}"
            ) from error
        progress.say(f"report: {path / 'report.md'}")
    return 0


def _saved(trainer: Trainer) -> str:
    """How to go on."""
    command = f"{trainer.ranks.command} -m cleaner_rl.train --resume {trainer.run.path}"
    return f"The run is saved up to step {trainer.saved_step}. Resume: {command}"


if __name__ == "__main__":
    run_command(main)
