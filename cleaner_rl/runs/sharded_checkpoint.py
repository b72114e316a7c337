"""Sharded checkpoint: every rank writes its part of the weights and moments, whole or not at all.

shards/              by torch.distributed.checkpoint; read by any number of ranks
trainer_state.pt     the rest of the trainer's state
config.json, ...     model configuration and tokenizer
manifest.json        size and hash of every file

All machines must see the same directory.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.errors import CheckpointError
from cleaner_rl.models.policy import Policy
from cleaner_rl.runs.checkpoint import (
    STATE,
    complete,
    fingerprint,
    partial_name,
    write_error,
    write_manifest,
)

SHARDS = "shards"


def save_sharded_checkpoint(
    directory: Path,
    policy: Policy,
    tensors: Mapping[str, Tensor],
    state: dict[str, Any],
    ranks: Ranks,
) -> None:
    """Write a checkpoint; all ranks take part.

    Args:
        directory: of the checkpoint, the same for all.
        policy: whose configuration and tokenizer go with it.
        tensors: sharded over the ranks, by name.
        state: the same on all ranks, small.
        ranks: that write.

    Raises:
        CheckpointError: the directory cannot be written.
    """
    partial = directory.with_name(partial_name(directory))
    shards = partial / SHARDS

    def begin() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        shards.mkdir(parents=True)

    def describe() -> None:
        policy.model.config.save_pretrained(partial)
        policy.model.generation_config.save_pretrained(partial)
        policy.tokenizer.save_pretrained(partial)
        torch.save(state, partial / STATE)

    try:
        ranks.on_first(begin)
        save(dict(tensors), checkpoint_id=shards)
        ranks.on_first(describe)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        mine = ranks.gather(
            lambda: {
                str(file.relative_to(partial)): fingerprint(file)
                for file in files[ranks.rank :: ranks.size]
            }
        )
        entries = dict(chain.from_iterable(part.items() for part in mine))

        def finish() -> None:
            write_manifest(partial, {name: entries[name] for name in sorted(entries)})
            complete(partial, directory)

        ranks.on_first(finish)
    except (OSError, RuntimeError, ValueError, CheckpointException) as error:
        if ranks.first:
            shutil.rmtree(partial, ignore_errors=True)
        raise write_error(directory, error) from error


def is_sharded(directory: Path) -> bool:
    """Whether a checkpoint holds shards and no plain weights."""
    return (directory / SHARDS).is_dir()


def load_shards(directory: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors, sharded or whole, with what a checkpoint holds under their names.

    In a process group all ranks take part. Without one, a process reads everything alone.

    Raises:
        CheckpointError: the checkpoint has no such tensors.
    """
    try:
        with warnings.catch_warnings():
            # A process alone is told that it is.
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            load(dict(tensors), checkpoint_id=directory / SHARDS)
    except (OSError, RuntimeError, ValueError, CheckpointException) as error:
        raise CheckpointError(
            f"cannot read the shards of {directory}: {error}; was it written by a run of the same "
            "model?"
        ) from error
