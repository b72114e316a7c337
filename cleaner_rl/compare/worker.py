"""ComparisonWorker: one run of a comparison, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path

import torch

from cleaner_rl.compare.directory import IDENTITY, PlannedRun
from cleaner_rl.config import TrainConfig
from cleaner_rl.errors import CheckpointError, UserError, run_command
from cleaner_rl.eval.held_out import evaluate_step, held_out_tasks
from cleaner_rl.models.policy import Policy, load_policy
from cleaner_rl.runs.evaluations import (
    FOLDER,
    MODES,
    episodes_path,
    evaluated_steps,
    summary_path,
)
from cleaner_rl.runs.loggers import open_logger
from cleaner_rl.runs.progress import TrainingProgress
from cleaner_rl.runs.provenance import tasks_digest, weights_fingerprint
from cleaner_rl.settings import flat
from cleaner_rl.train import train
from cleaner_rl.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker is to do.

    Attributes:
        run: to be begun, or gone on with.
        start: directory of the evaluation that it begins with.
        device: to run on.
        threads: of computations on a CPU; 0 leaves them as they are.
    """

    run: PlannedRun
    start: Path
    device: str
    threads: int


def work(assignment: Assignment) -> None:
    """Do it, and exit with a command's status. Everything printed goes to the run's log."""
    _end_with_the_parent()
    _print_to(assignment.run.log)
    if assignment.threads:
        torch.set_num_threads(assignment.threads)
    run_command(lambda: perform(assignment))


def perform(assignment: Assignment) -> int:
    """Do it in this process.

    Returns:
        0 when the run is finished, 130 when a signal stopped it.

    Raises:
        UserError: something that the run needs cannot be used.
    """
    run = assignment.run
    run.clear_unfinished_begin()
    config = replace(run.config, device=assignment.device)
    if run.is_start:
        return _evaluate_start(run, config)
    if run.path.exists():
        config = replace(config, resume=str(run.path))
    return _train(config, assignment.start)


def _evaluate_start(run: PlannedRun, config: TrainConfig) -> int:
    policy = load_policy(config.model, config.device)
    try:
        run.path.mkdir(parents=True)
        (run.path / "config.json").write_text(json.dumps(flat(config)), encoding="utf-8")
        with TrainingProgress(0, config.steps) as progress:
            evaluate_step(policy, config, run.path, 0, progress)
        (run.path / IDENTITY).write_text(json.dumps(_identity(policy, config)), encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"cannot write {run.path}: {error}") from error
    return 0


def _train(config: TrainConfig, start: Path) -> int:
    torch.manual_seed(config.seed)
    trainer = Trainer.open(config)
    path = trainer.run.path
    with (
        trainer.rollout,
        open_logger(config.logger, path, flat(config), trainer.step) as logger,
        TrainingProgress(trainer.step, config.steps) as progress,
    ):
        if trainer.step == 0:
            _require_same_start(_identity(trainer.policy, config), start)
            _begin_with(start, path)
        try:
            train(trainer, progress, logger)
        except KeyboardInterrupt:
            progress.say(f"stopped after step {trainer.saved_step}, saved")
            return 130
    return 0


def _identity(policy: Policy, config: TrainConfig) -> dict[str, str]:
    return {
        "policy": weights_fingerprint(policy.model),
        "tasks": tasks_digest(held_out_tasks(config)),
    }


def _require_same_start(identity: dict[str, str], start: Path) -> None:
    known = json.loads((start / IDENTITY).read_text(encoding="utf-8"))
    for name, value in identity.items():
        if known[name] != value:
            raise UserError(
                f"the {name} changed since this comparison was begun: no longer what was evaluated "
                f"in {start}; begin another comparison with another --out"
            )


def _begin_with(start: Path, run: Path) -> None:
    """The evaluation of step 0 is the same for all arms: take the one that there is."""
    if 0 in evaluated_steps(run):
        return
    (run / FOLDER).mkdir(exist_ok=True)
    for mode in MODES:
        shutil.copy(episodes_path(start, 0, mode), episodes_path(run, 0, mode))
    partial = run / ".start.partial"
    shutil.copy(summary_path(start, 0), partial)
    os.replace(partial, summary_path(run, 0))


def _print_to(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _end_with_the_parent() -> None:
    """A run whose comparison was killed must not go on beside the next one's."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
