"""Export: ``python -m cleaner_rl.export RUN --out DIR`` writes a Hugging Face directory."""

from __future__ import annotations

if __name__ == "__main__":  # arguments are checked before the imports below, which take seconds
    from cleaner_rl.commands import start

    start("export")

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError

from cleaner_rl.config import ExportConfig, parse_export
from cleaner_rl.errors import CheckpointError
from cleaner_rl.models.policy import load_policy
from cleaner_rl.runs.checkpoint import verify_checkpoint
from cleaner_rl.runs.files import whole_directory
from cleaner_rl.runs.lock import reserved
from cleaner_rl.runs.run_directory import RunDirectory


def export(config: ExportConfig) -> Path:
    """Write the model of a checkpoint, completely or not at all; returns the checkpoint's path."""
    if config.out.exists():
        raise CheckpointError(f"{config.out} exists already; give --out a new directory")
    run = RunDirectory.open(config.run)
    known = run.list_checkpoints()
    chosen = [path for path in known if config.step in (0, int(path.name.removeprefix("step-")))]
    if not chosen:
        raise CheckpointError(
            f"{run.path} has no checkpoint of step {config.step}; it has {[p.name for p in known]}"
        )
    checkpoint = chosen[-1]
    verify_checkpoint(checkpoint)
    with reserved(config.out, beside=True):
        policy = load_policy(str(checkpoint), "cpu")
        policy.model.to(getattr(torch, config.dtype))
        try:
            with whole_directory(config.out) as partial:
                policy.save(partial)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot write {config.out}: {error}") from error
    return checkpoint


def main(arguments: Sequence[str]) -> int:
    config = parse_export(arguments)
    print(f"{export(config)} exported to {config.out}")
    return 0
