"""HeldOut: a run's evaluations: before and after training, and at fixed steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cleaner_env.task import Task
from cleaner_env.tasks.load import first_tasks
from cleaner_rl.config import TrainConfig
from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.eval.evaluate import Evaluation, evaluate, without_rollback
from cleaner_rl.models.policy import Policy
from cleaner_rl.rollout.environment import EpisodeConfig
from cleaner_rl.runs.evaluations import (
    MODES,
    Row,
    evaluated_steps,
    read_evaluation,
    write_evaluation,
)
from cleaner_rl.runs.progress import TrainingProgress
from cleaner_rl.trainer import Trainer, load_source


def evaluate_if_due(trainer: Trainer, progress: TrainingProgress) -> dict[str, Evaluation]:
    """Evaluate the policy of the trainer's step where ``config.eval_every`` asks for it.

    The state is saved first, so that nothing after an evaluation's policy can be lost. Episodes are
    drawn from a random stream of their own. An evaluation that is there already is read back.

    Returns:
        The evaluations by mode, ``off`` and ``on``; none where none is due, and on other ranks
        than the first.

    Raises:
        OutageError: faults of the sandbox spoilt too many episodes.
        CheckpointError: they cannot be written.
    """
    config, path, step, ranks = trainer.config, trainer.run.path, trainer.step, trainer.ranks
    if not is_due(config, step):
        return {}
    if ranks.on_first(lambda: step not in evaluated_steps(path)):
        trainer.save()
        evaluate_step(trainer.policy, config, path, step, progress, ranks)
    if not ranks.first:
        return {}
    rows = {mode: read_evaluation(path, step, mode) for mode in MODES}
    return {mode: Evaluation.of(rows[mode], config.eval_samples, config.seed) for mode in MODES}


def evaluate_once(trainer: Trainer, progress: TrainingProgress, when: str) -> None:
    """The evaluation ``before`` or ``after`` training, rollback off, unless the run has it."""
    config, run, ranks = trainer.config, trainer.run, trainer.ranks
    name, label = f"evaluation-{when}.json", f"evaluating {when}"
    evaluations = evaluate_if_due(trainer, progress)

    def wanted() -> bool:
        known = run.read_json(name)
        done = known is not None and (when == "before" or known["step"] == trainer.step)
        return config.eval_tasks > 0 and not done

    if not ranks.on_first(wanted):
        return
    if is_due(config, trainer.step):
        result = evaluations.get("off")
    else:
        rollout, show = without_rollback(config.rollout()), partial(progress.phase, label)
        result = _play(trainer.policy, config, rollout, show, ranks)

    def note() -> None:
        assert result is not None
        run.write_json(name, {"step": trainer.step, **result.summary()})
        progress.say(_line(f"held-out {when}, rollback off", result))

    ranks.on_first(note)


def is_due(config: TrainConfig, step: int) -> bool:
    """Whether a run evaluates after that step; before the first and after the last it does."""
    return config.eval_every > 0 and (step % config.eval_every == 0 or step == config.steps)


def rollout_of(config: TrainConfig, mode: str) -> EpisodeConfig:
    """What an evaluation's episode is like.

    With rollback on it is SAAR as published, whatever the run trains with, so that the figures of
    different runs can be compared.
    """
    published = EpisodeConfig()
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
    policy: Policy,
    config: TrainConfig,
    path: Path,
    step: int,
    progress: TrainingProgress,
    ranks: Ranks | None = None,
) -> None:
    """Evaluate the policy of a step in both modes, and write episodes and figures.

    Args:
        policy: of that step.
        config: of the run.
        path: of the run's directory.
        step: which the files are named after.
        progress: told how far it is.
        ranks: play together; the first one writes.
    """
    ranks = ranks or Ranks()
    rows: dict[str, Sequence[Row]] = {}
    summary: dict[str, Any] = {"step": step}
    for mode in MODES:
        began = time.monotonic()
        label = f"evaluating step {step}, rollback {mode}"
        show = partial(progress.phase, label)
        result = _play(policy, config, rollout_of(config, mode), show, ranks)
        rows[mode] = result.rows
        seconds = round(time.monotonic() - began, 3)
        summary[mode] = {**result.summary(), "wall_seconds": seconds}
        progress.say(_line(f"held-out, step {step}, rollback {mode}", result))
    ranks.on_first(lambda: write_evaluation(path, step, rows, summary))


def _play(
    policy: Policy,
    config: TrainConfig,
    rollout: EpisodeConfig,
    on_progress: Callable[[int, int], None],
    ranks: Ranks,
) -> Evaluation:
    return evaluate(
        policy,
        ranks.together(lambda: held_out_tasks(config)),
        rollout,
        samples=config.eval_samples,
        temperature=config.temperature,
        max_batch=config.sample_batch,
        seed=config.seed,
        dtype=config.dtype,
        cache_tokens=config.cache_tokens,
        on_progress=on_progress,
        ranks=ranks,
    )


def _line(what: str, result: Evaluation) -> str:
    m, e = result.metrics, result.errors
    return (
        f"{what}: accuracy {m['accuracy']:.1%} ± {e['accuracy']:.1%}, "
        f"failed calls per episode {m['failed_calls']:.2f} ± {e['failed_calls']:.2f}, "
        f"first call fails in {m['first_call_failed']:.0%}"
    )
