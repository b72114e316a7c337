"""RunDirectory: the files of one training run.

config.json          every setting
metrics.jsonl        one JSON object per step
episodes/            some episodes of each step, raw and purified, one JSON object per line
checkpoints/         step-000020/: a Hugging Face directory and what training continues from
evaluation-*.json    held-out evaluations: before and after, and every --eval-every steps
evaluations/         the episodes of the latter, with rollback off and on in separate files
report.md, *.png     the results
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from cleaner_env.episode_io import json_line
from cleaner_rl.config import TrainConfig
from cleaner_rl.errors import CheckpointError
from cleaner_rl.learner.update import Updater
from cleaner_rl.models.policy import Policy
from cleaner_rl.runs.checkpoint import (
    list_checkpoints,
    remove_checkpoint,
    remove_partial,
    save_checkpoint,
)
from cleaner_rl.runs.evaluations import MODES, evaluated_steps, forget_evaluations, summary_path
from cleaner_rl.runs.files import append_row, read_json, read_rows, write_json, write_whole, writing
from cleaner_rl.settings import flat

CONFIG = "config.json"
METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    path: Path

    @classmethod
    def create(cls, path: Path, config: TrainConfig) -> RunDirectory:
        cls.require_free(path)
        with writing(path, "choose another directory with --run-dir"):
            path.mkdir(parents=True, exist_ok=True)
            (path / "episodes").mkdir()
            (path / "checkpoints").mkdir()
            write_json(path / CONFIG, flat(config))
        return cls(path)

    @classmethod
    def require_free(cls, path: Path) -> None:
        """Check that a new run can be written there."""
        if path.is_dir() and any(path.iterdir()):
            if (path / "checkpoints").is_dir():
                cls.open(path)  # if nothing can be continued, it says so
            raise CheckpointError(
                f"{path} is not empty; continue that run with --resume {quote(str(path))}, or "
                "choose another --run-dir"
            )
        if path.exists() and not path.is_dir():
            raise CheckpointError(f"{path} is a file; choose another --run-dir")

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open an existing run that has a checkpoint."""
        if not (path / "checkpoints").is_dir():
            raise CheckpointError(
                f"there is no run in {path} (no checkpoints); name the directory of a run, such as "
                "runs/tiny-..."
            )
        run = cls(path)
        if not run.list_checkpoints():
            raise CheckpointError(
                f"the run in {path} ended before its first checkpoint; remove it and start it again"
            )
        return run

    def list_checkpoints(self) -> list[Path]:
        """The run's checkpoints, oldest first."""
        return list_checkpoints(self.path / "checkpoints")

    def save(self, step: int, policy: Policy, updater: Updater, base: str, keep: int) -> None:
        """Write the checkpoint of a step and remove the oldest ones beyond ``keep``.

        Every rank has to call this. ``base`` is the fingerprint of the weights that a KL term or
        LoRA adapters refer to.
        """
        directory = self.path / "checkpoints" / f"step-{step:06d}"
        state = {"step": step, "base": base, "updater": updater.state()}
        save_checkpoint(directory, policy, updater.model, updater.tensors(), state, updater.ranks)

        def remove_oldest() -> None:
            for old in self.list_checkpoints()[:-keep]:
                remove_checkpoint(old)

        updater.ranks.on_first(remove_oldest)

    def log_metrics(self, metrics: dict[str, Any]) -> None:
        with writing(self.path / METRICS) as file:
            append_row(file, metrics)

    def rewind(self, config: TrainConfig, step: int) -> None:
        """Continue from the checkpoint of a step with these settings. Drop everything after it:
        metrics, episodes and evaluations of steps that will be repeated, and what a killed process
        left behind."""
        self.write_json(CONFIG, flat(config))
        remove_partial(self.path / "checkpoints")
        forget_evaluations(self.path, step)
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        write_whole(self.path / METRICS, "".join(json.dumps(row) + "\n" for row in kept))
        for episodes in (self.path / "episodes").glob("step-*.jsonl"):
            if int(episodes.stem.removeprefix("step-")) > step:
                episodes.unlink()

    def log_episodes(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write some episodes of a step, as ``episode_to_dict`` makes them, perhaps with more."""
        lines = [json_line(row) + "\n" for row in rows]
        if lines:
            with writing(self.path / "episodes" / f"step-{step:06d}.jsonl") as file:
                write_whole(file, "".join(lines).encode("utf-8", "surrogatepass"))

    def write_json(self, name: str, data: Any) -> None:
        """Write a JSON file, whole or not at all."""
        with writing(self.path / name) as file:
            write_json(file, data)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read the rows of ``metrics.jsonl``, without one that is still being written."""
    return list(read_rows(run / METRICS))


def wall_seconds(run: Path) -> dict[str, float]:
    """Wall time of all steps, and of all evaluations except the first, which runs share."""
    later = [read_json(summary_path(run, step)) for step in evaluated_steps(run) if step > 0]
    return {
        "training": round(sum(float(row["step_seconds"]) for row in read_metrics(run)), 3),
        "evaluation": round(sum(of[mode]["wall_seconds"] for of in later for mode in MODES), 3),
    }
