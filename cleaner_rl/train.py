"""Training: ``python -m cleaner_rl.train``. The algorithm reads from top to bottom in ``train``."""

from __future__ import annotations

if __name__ == "__main__":  # arguments are checked before the imports below, which take seconds
    from cleaner_rl.commands import start

    start("train")

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from shlex import quote
from typing import Any

import torch

from cleaner_env.completion import Decode
from cleaner_env.episode import Episode
from cleaner_env.episode_io import episode_from_dict, episode_to_dict
from cleaner_env.rewards import overlong_penalty
from cleaner_env.task import Task
from cleaner_rl.config import TrainConfig, parse_train
from cleaner_rl.distributed.interrupt import Interrupt
from cleaner_rl.distributed.ranks import Ranks, open_ranks
from cleaner_rl.errors import UserError
from cleaner_rl.eval.held_out import evaluate_if_due, evaluate_once
from cleaner_rl.grpo.advantages import error_ratio, resample_on_correct
from cleaner_rl.grpo.credit import branches_join
from cleaner_rl.grpo.groups import Group, minibatch_samples
from cleaner_rl.grpo.loss import LOSSES
from cleaner_rl.models.memory import memory_errors
from cleaner_rl.rollout.rollout import Rollout
from cleaner_rl.runs.loggers import in_groups
from cleaner_rl.runs.metrics import episode_metrics
from cleaner_rl.runs.progress import TrainingProgress
from cleaner_rl.runs.report import write_report
from cleaner_rl.runs.run_directory import read_metrics
from cleaner_rl.runs.trends import Trends
from cleaner_rl.trainer import Trainer
from cleaner_rl.view.trace import StepTrace, Values

_REFILL_START = 500_000_003
"""Index of the first problem that dynamic sampling draws to replace another."""


def train(trainer: Trainer, progress: TrainingProgress) -> None:
    """Train from the trainer's step up to ``config.steps``.

    The seed and the number of a step determine its tasks and random numbers, so a resumed run
    continues as the uninterrupted one would have. After a signal, and after an error between two
    steps, the state of the last complete step is saved.
    """
    config, rollout, ranks = trainer.config, trainer.rollout, trainer.ranks
    trends = Trends(read_metrics(trainer.run.path))
    notice = "stopping: the update in progress is finished, and the last whole step saved"
    with Interrupt(notice if ranks.first else "") as interrupt, ranks.guarded(interrupt):
        try:
            evaluate_if_due(trainer, progress)
            evaluate_once(trainer, progress, "before")
            for step in range(trainer.step + 1, config.steps + 1):
                began = time.monotonic()
                played, kept, skipped = play_step(trainer, step, progress)
                sampled = time.monotonic()
                progress.phase("learning")
                with interrupt.protected():
                    samples = minibatch_samples(
                        kept,
                        config.minibatch_prompts,
                        config.credit,
                        config.grafted,
                        rollout.prompt_ids,
                        rollout.observation_ids,
                        ranks,
                    )
                    trace = StepTrace.of(played, kept, config.monitor.log_episodes)
                    learned = trainer.learn(samples, trace.see)
                    seen = ranks.gather(partial(trace.values, samples))
                    trainer.step = step
                    ended = time.monotonic()
                    episodes = [episode for group in played for episode in group.episodes]
                    tokens = sum(episode.stats.tokens_sampled for episode in episodes)
                    metrics = {
                        "step": step,
                        **_group_metrics(played),
                        **episode_metrics(episodes),
                        **learned,
                        "prompts_skipped": skipped,
                        "sandbox_faults": ranks.sum([rollout.sandbox.faults])[0],
                        "tokens_per_second": tokens / (ended - began),
                        "sample_seconds": sampled - began,
                        "step_seconds": ended - began,
                    }
                    ranks.on_first(partial(_write, trainer, metrics, trace, seen))
                    ranks.together(trainer.updater.require_finite)
                    if step % config.monitor.save_every == 0 or step == config.steps:
                        trainer.save()
                progress.step(step, metrics)
                progress.rollback(episodes)
                stop_when = config.monitor.stop_when
                ranks.together(partial(trends.add, metrics, progress.say, stop_when))
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
) -> tuple[list[Group], list[Group], int]:
    """The groups played in a step, those to learn from, and the number of problems skipped.

    With ``--saar roc``, the episodes to learn from are chosen from each group. With
    ``dynamic_sampling`` (DAPO, 2503.14476), groups without a signal are left out and replaced by
    groups of other problems, in at most that many rounds.
    """
    config, rollout = trainer.config, trainer.rollout
    played: list[Group] = []
    kept: list[Group] = []
    skipped = 0
    for refill in range(1 + config.dynamic_sampling):
        wanted = config.prompts - sum(group.has_signal for group in kept)
        if wanted < 1:
            break
        tasks, too_long = trainer.ranks.together(partial(step_tasks, trainer, step, refill, wanted))
        skipped += too_long
        for episodes in play_groups(tasks, trainer, step, progress, refill):
            rewards = [_reward(episode, rollout, config) for episode in episodes]
            group = compared(episodes, rewards, config)
            played.append(group)
            kept.append(resampled(group, config) if config.episode.saar == "roc" else group)
    if config.dynamic_sampling:
        kept = [group for group in kept if group.has_signal]
    return played, kept, skipped


def step_tasks(
    trainer: Trainer, step: int, refill: int = 0, wanted: int | None = None
) -> tuple[list[Task], int]:
    """The problems of a step, and how many were skipped because their prompts are too long.

    Steps count from 1. Round ``refill`` of dynamic sampling draws ``wanted`` more problems.
    """
    count, limit = trainer.config.prompts, trainer.config.max_prompt_tokens
    start = (step - 1) * count
    if refill:
        # Far from the indices of the steps' own problems, so that refills use up none of those.
        rounds = trainer.config.dynamic_sampling
        start = _REFILL_START + ((step - 1) * rounds + refill - 1) * count
    tasks = [trainer.source[start + i] for i in range(count if wanted is None else wanted)]
    fitting = [task for task in tasks if trainer.rollout.prompt_length(task) <= limit]
    return fitting, len(tasks) - len(fitting)


def play_groups(
    tasks: Sequence[Task],
    trainer: Trainer,
    step: int,
    progress: TrainingProgress,
    refill: int = 0,
) -> list[list[Episode]]:
    """The episodes of each problem, without those that sandbox faults spoilt, and without groups
    that have fewer than two episodes left.

    Each rank plays some of the groups, with the seeds that a single process would use, and returns
    all of them.
    """
    config, ranks = trainer.config, trainer.ranks
    size = config.group_size * (config.oversample if config.episode.saar == "roc" else 1)
    mine = ranks.share(len(tasks))
    # Seeds of different steps, and of their episodes, do not overlap.
    first = config.seed * 1_000_003_000 + step * 100_003
    first += (refill * config.prompts + mine.start) * size

    def play() -> list[Episode]:
        with memory_errors("sampling", trainer.policy.device):
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
    """The episodes that ``play`` returns on all ranks, in the order of the ranks.

    They are sent as the plain data that episode files hold; a rank keeps its own objects.
    """
    if ranks.size == 1:
        return ranks.collect(play)[0]
    played: list[Episode] = []

    def packed() -> list[dict[str, Any]]:
        played.extend(play())
        return [episode_to_dict(episode) for episode in played]

    episodes = []
    for rank, rows in enumerate(ranks.collect(packed)):
        mine = rank == ranks.rank
        episodes += played if mine else [episode_from_dict(row, decode) for row in rows]
    return episodes


def compared(episodes: list[Episode], rewards: list[float], config: TrainConfig) -> Group:
    """The episodes of a problem with their advantages."""
    joined = config.episode.failure_reward if branches_join(config.credit) else None
    return Group.of(episodes, rewards, LOSSES[config.update.loss].scaled, joined)


def resampled(group: Group, config: TrainConfig) -> Group:
    """The group of the episodes that ``--saar roc`` keeps."""
    chosen = resample_on_correct(
        [episode.correct for episode in group.episodes],
        [error_ratio(e.stats.failures, e.stats.calls) for e in group.episodes],
        config.group_size,
    )
    rewards = [group.rewards[i] for i in chosen]
    return compared([group.episodes[i] for i in chosen], rewards, config)


def _reward(episode: Episode, rollout: Rollout, config: TrainConfig) -> float:
    rules, length = config.episode, rollout.response_length(episode)
    return episode.reward - overlong_penalty(
        length, rules.max_response_tokens, rules.overlong_buffer, rules.overlong_factor
    )


def _group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Means over the groups; 0 if sandbox faults spoilt all of them."""
    rewards = [reward for group in groups for reward in group.rewards]
    return {
        "reward": sum(rewards) / max(1, len(rewards)),
        "episodes": len(rewards),
        "groups": len(groups),
        "groups_with_signal": sum(g.has_signal for g in groups) / max(1, len(groups)),
    }


def _write(
    trainer: Trainer, metrics: dict[str, Any], trace: StepTrace, seen: Sequence[Values]
) -> None:
    """Record a step; its checkpoint is written separately."""
    run, step = trainer.run, trainer.step
    run.log_metrics(metrics)
    rows = list(trace.rows(step, trainer.rollout, trainer.config, seen))
    run.log_episodes(step, rows)
    trainer.log(step, in_groups(metrics), rows)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns 0 at the end of the training and 130 after an interruption."""
    config = parse_train(arguments)
    torch.manual_seed(config.seed)
    with open_ranks(config.device, config.rank_timeout) as ranks:
        if ranks.first:
            print(f"loading {config.resume or config.model} ...", file=sys.stderr, flush=True)
        try:
            with Trainer.open(config, ranks) as trainer:
                return run(trainer)
        except UserError:
            if ranks.united and not ranks.first:
                return 2  # the first rank prints the message of all
            raise


def run(trainer: Trainer, resume: str = "") -> int:
    """Train to the end, on one of the ranks; returns the status of ``main``.

    ``resume`` says how to continue after a stop, if not by ``cleaner_rl.train --resume``.
    """
    saved = partial(_saved, trainer, resume)
    config, ranks, path = trainer.config, trainer.ranks, trainer.run.path
    with TrainingProgress(trainer.step, config.steps, ranks.console()) as progress:
        progress.say(f"run directory: {path}")
        try:
            train(trainer, progress)
        except KeyboardInterrupt:
            progress.say(f"stopped after step {trainer.step}. {saved()}")
            return 130
        except UserError as error:
            raise type(error)(f"{error}\n{saved()}") from error
        progress.say(f"report: {path / 'report.md'}")
    return 0


def _saved(trainer: Trainer, resume: str) -> str:
    """A sentence on what is saved and how to continue."""
    path = quote(str(trainer.run.path))
    command = f"{trainer.ranks.command} -m cleaner_rl.train --resume {path}"
    return f"The run is saved up to step {trainer.saved_step}. Resume: {resume or command}"
