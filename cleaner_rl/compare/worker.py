"""ComparisonWorker: one run of a comparison, in its own process."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from dataclasses import replace
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path

import torch

from cleaner_rl import train
from cleaner_rl.compare.directory import IDENTITY, PlannedRun
from cleaner_rl.config import TrainConfig
from cleaner_rl.errors import UserError, run_command
from cleaner_rl.eval.held_out import evaluate_step
from cleaner_rl.models.policy import Policy, load_policy
from cleaner_rl.runs.checkpoint import list_checkpoints
from cleaner_rl.runs.evaluations import FOLDER, MODES, episodes_path, evaluated_steps, summary_path
from cleaner_rl.runs.files import write_json, write_whole, writing
from cleaner_rl.runs.progress import TrainingProgress
from cleaner_rl.runs.provenance import tasks_digest, weights_fingerprint
from cleaner_rl.settings import flat
from cleaner_rl.trainer import Trainer, held_out_tasks


def work(run: PlannedRun, start: Path, device: str, threads: int) -> None:
    """Start or continue a run, and exit with a command's status; its output goes to its log.

    ``start`` has the evaluation that it begins with; 0 ``threads`` means torch's default.
    """
    _end_with_the_parent()
    _print_to(run.log)
    if threads:
        torch.set_num_threads(threads)
    config = replace(run.config, device=device)
    if run.path.exists() and not list_checkpoints(run.path / "checkpoints"):
        shutil.rmtree(run.path)  # it was killed before its first checkpoint
    run_command(lambda: _evaluate(run, config) if run.is_start else _train(run, config, start))


def _evaluate(run: PlannedRun, config: TrainConfig) -> int:
    policy = load_policy(config.model, config.device, config.episode.tool_role)
    with writing(run.path):
        run.path.mkdir(parents=True)
        write_json(run.path / "config.json", flat(config))
        with TrainingProgress(0, config.steps) as progress:
            evaluate_step(policy, config, run.path, 0, progress)
        write_json(run.path / IDENTITY, _identity(policy, config))
    return 0


def _train(run: PlannedRun, config: TrainConfig, start: Path) -> int:
    torch.manual_seed(config.seed)
    resume = str(run.path) if run.path.exists() else ""
    with Trainer.open(replace(config, resume=resume)) as trainer:
        if trainer.step == 0:
            _require_same_start(_identity(trainer.policy, config), start)
            _begin_with(start, run.path)
        return train.run(trainer, resume="the command of the comparison")


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
                f"the {name} changed since this comparison was started and differs from the one "
                f"evaluated in {start}; start another comparison with another --out"
            )


def _begin_with(start: Path, run: Path) -> None:
    """Copy the evaluation of step 0, which is the same for all arms."""
    if 0 in evaluated_steps(run):
        return
    (run / FOLDER).mkdir(exist_ok=True)
    for mode in MODES:
        shutil.copy(episodes_path(start, 0, mode), episodes_path(run, 0, mode))
    write_whole(summary_path(run, 0), summary_path(start, 0).read_bytes())


def _print_to(log: Path) -> None:
    """Redirect everything that this process prints, libraries included, to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _end_with_the_parent() -> None:
    """End this process with its parent: a run must not outlive a comparison that was killed."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
