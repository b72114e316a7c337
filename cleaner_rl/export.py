"""Export: ``python -m cleaner_rl.export RUN --out DIR`` makes a plain Hugging Face directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from safetensors import SafetensorError

from cleaner_rl.errors import CheckpointError, run_command
from cleaner_rl.models.policy import load_policy
from cleaner_rl.runs.checkpoint import verify_checkpoint
from cleaner_rl.runs.files import whole_directory
from cleaner_rl.runs.run_directory import RunDirectory
from cleaner_rl.settings import Precision


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """Make a plain Hugging Face directory of a checkpoint, on a CPU, in one process."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    out: Path
    """Directory to make; must not exist."""
    step: int = 0
    """Step of the checkpoint; 0 takes the newest."""
    dtype: Precision = "float32"
    """Of the weights that are written."""


def export(config: ExportConfig) -> Path:
    """Write the model of a checkpoint, whole or not at all; the checkpoint is returned."""
    if config.out.exists():
        raise CheckpointError(f"{config.out} is there already; give --out a new directory")
    run = RunDirectory.open(config.run)
    known = run.list_checkpoints()
    chosen = [path for path in known if config.step in (0, int(path.name.removeprefix("step-")))]
    if not chosen:
        raise CheckpointError(
            f"{run.path} has no checkpoint of step {config.step}; it has {[p.name for p in known]}"
        )
    checkpoint = chosen[-1]
    verify_checkpoint(checkpoint)
    policy = load_policy(str(checkpoint), "cpu")
    policy.model.to(getattr(torch, config.dtype))
    try:
        with whole_directory(config.out) as partial:
            policy.save(partial)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {config.out}: {error}") from error
    return checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    config = tyro.cli(ExportConfig, args=arguments, prog="python -m cleaner_rl.export")
    checkpoint = export(config)
    print(f"{checkpoint} exported to {config.out}")
    return 0


if __name__ == "__main__":
    run_command(main)
