"""Export: ``python -m cleaner_rl.export RUN --out DIR`` makes a plain Hugging Face directory."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from cleaner_rl.config import TrainConfig
from cleaner_rl.errors import CheckpointError, run_command
from cleaner_rl.models.lora import add_lora
from cleaner_rl.models.policy import Policy, load_policy, load_skeleton
from cleaner_rl.runs.checkpoint import list_checkpoints, partial_name, verify_checkpoint
from cleaner_rl.runs.run_directory import RunDirectory
from cleaner_rl.runs.sharded_checkpoint import is_sharded, load_shards
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
    """Write the model of a checkpoint, adapters merged, whole or not at all.

    Returns:
        The checkpoint that it was made of.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or the directory cannot be written.
    """
    if config.out.exists():
        raise CheckpointError(f"{config.out} is there already; give --out a new directory")
    checkpoint = _checkpoint(RunDirectory.open(config.run), config.step)
    verify_checkpoint(checkpoint)
    policy = _policy(checkpoint, TrainConfig.load(config.run / "config.json"))
    policy.model.to(getattr(torch, config.dtype))
    partial = config.out.with_name(partial_name(config.out))
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        policy.save(partial)
        os.replace(partial, config.out)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"cannot write {config.out}: {error}") from error
    return checkpoint


def _checkpoint(run: RunDirectory, step: int) -> Path:
    known = list_checkpoints(run.checkpoints)
    chosen = [path for path in known if step in (0, int(path.name.removeprefix("step-")))]
    if not chosen:
        raise CheckpointError(
            f"{run.path} has no checkpoint of step {step}; it has {[p.name for p in known]}"
        )
    return chosen[-1]


def _policy(checkpoint: Path, config: TrainConfig) -> Policy:
    """The whole policy of a checkpoint, sharded or not."""
    if not is_sharded(checkpoint):
        return load_policy(str(checkpoint), "cpu")
    if config.lora_rank:
        policy = load_policy(config.model, "cpu")
        add_lora(policy.model, config.lora_rank, config.lora_alpha)
    else:
        policy = load_skeleton(checkpoint, "cpu")
    trained = {n: p.detach() for n, p in policy.model.named_parameters() if p.requires_grad}
    load_shards(checkpoint, {f"model.{name}": tensor for name, tensor in trained.items()})
    return policy


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    config = tyro.cli(ExportConfig, args=arguments, prog="python -m cleaner_rl.export")
    checkpoint = export(config)
    print(f"{checkpoint} exported to {config.out}")
    return 0


if __name__ == "__main__":
    run_command(main)
