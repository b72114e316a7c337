"""RunDirectory: the files of one training run.

config.json          every setting
metrics.jsonl        one object a step
episodes/            some episodes of each step, raw and purified, one JSON object a line
checkpoints/         step-000020/: a Hugging Face directory and the trainer's state, or shards
evaluation-*.json    held-out evaluation before and after, and every --eval-every steps
evaluations/         the episodes of the latter, one file for rollback off and one for on
report.md, *.png     what came out
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cleaner_env.episode import Episode
from cleaner_env.episode_io import write_episodes
from cleaner_rl.config import TrainConfig
from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.errors import CheckpointError
from cleaner_rl.models.policy import Policy
from cleaner_rl.runs.checkpoint import (
    list_checkpoints,
    load_state,
    remove_checkpoint,
    remove_partial,
    save_checkpoint,
)
from cleaner_rl.runs.evaluations import MODES, evaluated_steps, forget_evaluations, summary_path
from cleaner_rl.runs.files import append_row, read_json, read_rows, write_json, write_whole
from cleaner_rl.runs.sharded_checkpoint import save_sharded_checkpoint

METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """One run's directory.

    Attributes:
        path: of the directory.
    """

    path: Path

    @classmethod
    def create(cls, path: Path, config: TrainConfig) -> RunDirectory:
        """Begin a run there.

        Raises:
            CheckpointError: the directory cannot be written, or holds something already.
        """
        cls.require_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "episodes").mkdir()
            (path / "checkpoints").mkdir()
            run = cls(path)
            run.save_config(config)
        except OSError as error:
            raise CheckpointError(
                f"cannot write the run directory {path}: {error}; choose another with --run-dir"
            ) from error
        return run

    @staticmethod
    def require_free(path: Path) -> None:
        """Check that nothing lies there yet.

        Raises:
            CheckpointError: the directory holds something, or the path is a file.
        """
        if (path / "checkpoints").is_dir() and not list_checkpoints(path / "checkpoints"):
            raise CheckpointError(
                f"the run in {path} ended before its first checkpoint and cannot be continued; "
                "remove it, or choose another --run-dir"
            )
        if path.is_dir() and any(path.iterdir()):
            raise CheckpointError(
                f"{path} is not empty; continue that run with --resume {path}, or choose another "
                "--run-dir"
            )
        if path.exists() and not path.is_dir():
            raise CheckpointError(f"{path} is a file; choose another --run-dir")

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """An existing run.

        Raises:
            CheckpointError: there is no run in that directory, or it has no checkpoint yet.
        """
        if not (path / "config.json").is_file():
            raise CheckpointError(
                f"there is no run in {path} (no config.json); name the directory of a run, such as "
                "runs/tiny-..."
            )
        run = cls(path)
        if not run.has_checkpoint:
            raise CheckpointError(
                f"the run in {path} ended before its first checkpoint; remove it and start it again"
            )
        return run

    def save_config(self, config: TrainConfig) -> None:
        """Write every setting."""
        self.write_json("config.json", asdict(config))

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.path / "checkpoints"

    @property
    def has_checkpoint(self) -> bool:
        """Whether the run can be resumed."""
        return bool(list_checkpoints(self.checkpoints))

    def latest_checkpoint(self) -> Path:
        """The newest checkpoint."""
        return list_checkpoints(self.checkpoints)[-1]

    def load_latest(self, ranks: Ranks) -> tuple[Path, dict[str, Any]]:
        """The newest checkpoint's directory and the trainer's state in it.

        Each rank looks whether some of the files are whole, so all have to call it together.

        Raises:
            CheckpointError: it is damaged.
        """
        latest = self.latest_checkpoint()
        return latest, load_state(latest, ranks.rank, ranks.size)

    def save(self, step: int, policy: Policy, state: dict[str, Any], keep: int) -> Path:
        """Write the checkpoint of a step and remove the oldest ones beyond ``keep``."""
        directory = self.checkpoints / f"step-{step:06d}"
        save_checkpoint(directory, policy, {**state, "step": step})
        self._remove_all_but(keep)
        return directory

    def save_shards(
        self,
        step: int,
        policy: Policy,
        tensors: Mapping[str, Tensor],
        state: dict[str, Any],
        keep: int,
        ranks: Ranks,
    ) -> Path:
        """The same from all ranks at once, each with its part of ``tensors``."""
        directory = self.checkpoints / f"step-{step:06d}"
        save_sharded_checkpoint(directory, policy, tensors, {**state, "step": step}, ranks)
        ranks.on_first(lambda: self._remove_all_but(keep))
        return directory

    def _remove_all_but(self, keep: int) -> None:
        for old in list_checkpoints(self.checkpoints)[: -max(keep, 1)]:
            remove_checkpoint(old)

    def log_metrics(self, metrics: dict[str, Any]) -> None:
        """Append one step's metrics.

        Raises:
            CheckpointError: they cannot be written.
        """
        file = self.path / METRICS
        with _writing(file):
            append_row(file, metrics)

    def forget_after(self, step: int) -> None:
        """Drop what comes after a checkpoint: metrics and episodes of steps that will be played
        again, and what a killed process left behind."""
        remove_partial(self.checkpoints)
        forget_evaluations(self.path, step)
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        write_whole(self.path / METRICS, "".join(json.dumps(row) + "\n" for row in kept))
        for episodes in (self.path / "episodes").glob("step-*.jsonl"):
            if int(episodes.stem.removeprefix("step-")) > step:
                episodes.unlink()

    def log_episodes(self, step: int, episodes: Iterable[Episode]) -> None:
        """Write some episodes of a step.

        Raises:
            CheckpointError: they cannot be written.
        """
        logged = list(episodes)
        if logged:
            file = self.path / "episodes" / f"step-{step:06d}.jsonl"
            with _writing(file):
                write_episodes(file, logged)

    def write_json(self, name: str, data: Any) -> None:
        """Write a JSON file, whole or not at all.

        Raises:
            CheckpointError: it cannot be written.
        """
        with _writing(self.path / name):
            write_json(self.path / name, data)

    def read_json(self, name: str) -> Any:
        """Read a JSON file; None when it does not exist."""
        return read_json(self.path / name)


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """A block that writes a file."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot write {file}: {error}; free some space") from error


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``; a line that is being written is left out."""
    return list(read_rows(run / METRICS))


def evaluation_seconds(run: Path, step: int) -> float:
    """Wall time of the evaluation of a step, both modes."""
    figures = json.loads(summary_path(run, step).read_text(encoding="utf-8"))
    return float(sum(figures[mode]["wall_seconds"] for mode in MODES))


def wall_seconds(run: Path) -> dict[str, float]:
    """Wall time of all steps, and of all evaluations after the first, which runs share."""
    later = [step for step in evaluated_steps(run) if step > 0]
    return {
        "training": round(sum(float(row["step_seconds"]) for row in read_metrics(run)), 3),
        "evaluation": round(sum(evaluation_seconds(run, step) for step in later), 3),
    }
