"""HeldOut: the evaluations of a run at fixed steps, with rollback off and on."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cleaner_env.task_files import first_tasks
from cleaner_env.tasks import Task
from cleaner_rl.config import TrainConfig
from cleaner_rl.evaluation import Evaluation, evaluation_rows
from cleaner_rl.evaluation_files import (
    MODES,
    Row,
    evaluated_steps,
    read_evaluation,
    write_evaluation,
)
from cleaner_rl.exhaustion import exhaustion_said
from cleaner_rl.policy import Policy
from cleaner_rl.progress import TrainingProgress
from cleaner_rl.rollout import RolloutConfig
from cleaner_rl.session import Session, load_source


def evaluate_if_due(session: Session, progress: TrainingProgress) -> dict[str, Evaluation]:
    """Evaluate the policy of the session's step where ``config.eval_every`` asks for it.

    The state is saved first, so that nothing after an evaluation's policy can be lost. Episodes are
    drawn from a random stream of their own. An evaluation that is there already is read back.

    Returns:
        The evaluations by mode, ``off`` and ``on``; none where none is due, and on other ranks
        than the first, which plays them.

    Raises:
        OutageError: faults of the sandbox spoilt too many episodes.
        CheckpointError: they cannot be written.
    """
    config, path, step, ranks = session.config, session.run.path, session.step, session.ranks
    if not is_due(config, step):
        return {}

    def play() -> None:
        if ranks.first:
            with exhaustion_said("sampling", session.policy.device):
                evaluate_step(session.policy, config, path, step, progress)

    if ranks.on_first(lambda: step not in evaluated_steps(path)):
        session.save()
        ranks.collect(play)
    if not ranks.first:
        return {}
    rows = {mode: read_evaluation(path, step, mode) for mode in MODES}
    return {mode: Evaluation.of(rows[mode], config.eval_samples, config.seed) for mode in MODES}


def is_due(config: TrainConfig, step: int) -> bool:
    """Whether a run evaluates after that step; before the first and after the last it does."""
    return config.eval_every > 0 and (step % config.eval_every == 0 or step == config.steps)


def rollout_of(config: TrainConfig, mode: str) -> RolloutConfig:
    """What an evaluation's episode is like.

    With rollback on it is SAAR as published, whatever the run trains with, so that the figures of
    different runs can be compared.
    """
    published = RolloutConfig()
    return replace(
        config.rollout(),
        rollback=mode == "on",
        mode="saar",
        gamma=published.gamma,
        max_retries=published.max_retries,
        rollback_probability=published.rollback_probability,
        similarity_on=published.similarity_on,
    )


def held_out_tasks(config: TrainConfig) -> list[Task]:
    """The problems of a run's evaluations.

    Raises:
        UserError: there is no such source, or it cannot be read.
    """
    return first_tasks(load_source(config, "test"), config.eval_tasks)


def evaluate_step(
    policy: Policy, config: TrainConfig, path: Path, step: int, progress: TrainingProgress
) -> None:
    """Evaluate the policy of a step in both modes, and write episodes and figures.

    Args:
        policy: of that step.
        config: of the run.
        path: of the run's directory.
        step: which the files are named after.
        progress: told how far it is.
    """
    tasks = held_out_tasks(config)
    rows: dict[str, list[Row]] = {}
    summary: dict[str, Any] = {"step": step}
    for mode in MODES:
        began = time.monotonic()
        label = f"evaluating step {step}, rollback {mode}"
        rows[mode] = evaluation_rows(
            policy,
            tasks,
            rollout_of(config, mode),
            samples=config.eval_samples,
            temperature=config.temperature,
            max_batch=config.sample_batch,
            seed=config.seed,
            dtype=config.dtype,
            on_progress=partial(progress.phase, label),
        )
        result = Evaluation.of(rows[mode], config.eval_samples, config.seed)
        seconds = round(time.monotonic() - began, 3)
        summary[mode] = {**result.summary(), "wall_seconds": seconds}
        m, errors = result.metrics, result.errors
        progress.say(
            f"held-out, step {step}, rollback {mode}: accuracy {m['accuracy']:.1%} ± "
            f"{errors['accuracy']:.1%}, failed calls per episode {m['failed_calls']:.2f} ± "
            f"{errors['failed_calls']:.2f}, {seconds:.0f} s"
        )
    write_evaluation(path, step, rows, summary)
