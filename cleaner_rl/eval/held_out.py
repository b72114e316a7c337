"""Evaluations of a run on held-out tasks: before and after training, and at fixed steps."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cleaner_rl.config import TrainConfig
from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.eval.evaluate import Evaluation, evaluate
from cleaner_rl.models.policy import Policy
from cleaner_rl.runs.evaluations import MODES, evaluated_steps, read_evaluation, write_evaluation
from cleaner_rl.runs.files import read_json
from cleaner_rl.runs.loggers import held_out
from cleaner_rl.runs.progress import TrainingProgress
from cleaner_rl.settings import EpisodeConfig
from cleaner_rl.trainer import Trainer, held_out_tasks


def evaluate_if_due(trainer: Trainer, progress: TrainingProgress) -> None:
    """Evaluate the trainer's policy if ``--eval-every`` asks for it at this step.

    The state is saved first, so that the evaluated policy is never lost. Episodes have a random
    stream of their own. A step that has been evaluated is not evaluated again.
    """
    config, path, step, ranks = trainer.config, trainer.run.path, trainer.step, trainer.ranks
    if is_due(config, step) and ranks.on_first(lambda: step not in evaluated_steps(path)):
        trainer.save()
        results = evaluate_step(trainer.policy, config, path, step, progress, ranks)
        for mode, result in results.items():
            trainer.log(step, held_out(result.metrics, mode))


def evaluate_once(trainer: Trainer, progress: TrainingProgress, when: str) -> None:
    """Evaluate ``before`` or ``after`` training, with rollback off, unless the run has done so.

    If ``evaluate_if_due`` has just evaluated the step, its results are used.
    """
    config, run, step, ranks = trainer.config, trainer.run, trainer.step, trainer.ranks
    name = f"evaluation-{when}.json"

    def wanted() -> bool:
        known = read_json(run.path / name)
        done = known is not None and (when == "before" or known["step"] == step)
        return config.monitor.eval_tasks > 0 and not done

    if not ranks.on_first(wanted):
        return
    played = None
    if not is_due(config, step):
        settings = replace(config.episode, saar="off")
        played = _play(trainer.policy, config, settings, progress, f"evaluating {when}", ranks)

    def record() -> None:
        result = played or Evaluation.of(
            read_evaluation(run.path, step, "off"), config.monitor.eval_samples, config.seed
        )
        run.write_json(name, {"step": step, **result.summary()})
        if played is not None:
            trainer.log(step, held_out(result.metrics))
        progress.say(_line(f"held-out {when}, rollback off", result))

    ranks.on_first(record)


def is_due(config: TrainConfig, step: int) -> bool:
    """Whether a run evaluates after a step: 0, multiples of ``--eval-every``, and the last."""
    every = config.monitor.eval_every
    return every > 0 and (step % every == 0 or step == config.steps)


def evaluate_step(
    policy: Policy,
    config: TrainConfig,
    path: Path,
    step: int,
    progress: TrainingProgress,
    ranks: Ranks | None = None,
) -> dict[str, Evaluation]:
    """Evaluate the policy of a step with rollback off and on; the first rank writes the files."""
    ranks = ranks or Ranks()
    results: dict[str, Evaluation] = {}
    summary: dict[str, Any] = {"step": step}
    for mode in MODES:
        began = time.monotonic()
        label = f"evaluating step {step}, rollback {mode}"
        result = _play(policy, config, _episodes(config, mode), progress, label, ranks)
        results[mode] = result
        seconds = round(time.monotonic() - began, 3)
        summary[mode] = {**result.summary(), "wall_seconds": seconds}
        progress.say(_line(f"held-out, step {step}, rollback {mode}", result))
    rows = {mode: result.rows for mode, result in results.items()}
    ranks.on_first(lambda: write_evaluation(path, step, rows, summary))
    return results


def _episodes(config: TrainConfig, mode: str) -> EpisodeConfig:
    """The settings of evaluation episodes. Rollback on means SAAR as published, whatever the run
    trains with, so that the figures of different runs can be compared."""
    names = ("gamma", "max_retries", "rollback_probability", "similarity_on")
    published = {name: getattr(EpisodeConfig(), name) for name in names}
    return replace(config.episode, saar="on" if mode == "on" else "off", **published)


def _play(
    policy: Policy,
    config: TrainConfig,
    episodes: EpisodeConfig,
    progress: TrainingProgress,
    label: str,
    ranks: Ranks,
) -> Evaluation:
    return evaluate(
        policy,
        ranks.together(lambda: held_out_tasks(config)),
        episodes,
        samples=config.monitor.eval_samples,
        seed=config.seed,
        dtype=config.dtype,
        on_progress=partial(progress.phase, label),
        ranks=ranks,
    )


def _line(what: str, result: Evaluation) -> str:
    m, e = result.metrics, result.standard_errors
    return (
        f"{what}: accuracy {m['accuracy']:.1%} ± {e['accuracy']:.1%}, "
        f"failed calls per episode {m['failed_calls']:.2f} ± {e['failed_calls']:.2f}, "
        f"first call fails in {m['first_call_failed']:.0%}"
    )
