"""Checkpoint: a policy on disk, with what its training continues from; whole or not at all.

config.json, model.safetensors, ...   a plain Hugging Face directory, LoRA adapters merged
trainer/                              AdamW's moments and the adapters, in shards that any number of
                                      ranks can read, by torch.distributed.checkpoint
trainer/state.json                    the step, the optimiser's numbers, and which weights a KL term
                                      or LoRA adapters refer to
manifest.json                         the size of every file

All machines must see the same directory.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.errors import CheckpointError
from cleaner_rl.models.policy import Policy
from cleaner_rl.runs.files import partial_path, put_in_place, write_json

MANIFEST = "manifest.json"
TRAINER = "trainer"
STATE = f"{TRAINER}/state.json"
_OLD_STATE, _OLD_SHARDS = "trainer_state.pt", "shards"
_ERRORS = (OSError, RuntimeError, ValueError, SafetensorError, CheckpointException)


def save_checkpoint(
    directory: Path,
    policy: Policy,
    trained: Any,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    ranks: Ranks,
) -> None:
    """Write a checkpoint. Every rank has to call this.

    Everything goes to a directory next to it first, which is renamed when it is complete, so an
    interrupted write leaves no partial checkpoint.

    Args:
        policy: supplies configuration and tokenizer.
        trained: the model whose weights are written.
        tensors: what else a training continues from, sharded like ``trained``.
        state: plain numbers and names, the same on all ranks.
    """
    partial = partial_path(directory)

    def finish() -> None:
        write_json(partial / STATE, state)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        sizes = {str(f.relative_to(partial)): {"bytes": f.stat().st_size} for f in files}
        write_json(partial / MANIFEST, sizes)
        put_in_place(partial, directory)

    try:
        ranks.on_first(lambda: shutil.rmtree(partial, ignore_errors=True))
        ranks.on_first(lambda: (partial / TRAINER).mkdir(parents=True))
        policy.save(partial, trained, ranks)
        if tensors:
            with _without_warning():
                save(dict(tensors), checkpoint_id=partial / TRAINER)
        ranks.on_first(finish)
    except _ERRORS as error:
        if ranks.first:
            shutil.rmtree(partial, ignore_errors=True)
        if ranks.lost_another(error):
            raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"cannot write the checkpoint {directory}: {reason[0]}; earlier checkpoints are "
            "untouched. If the disk or a quota is full, free some space"
        ) from error


def load_state(directory: Path) -> dict[str, Any]:
    """Read the state of a checkpoint, after checking that its files are complete."""
    if (directory / _OLD_STATE).exists():
        weights = "--model " + quote(str(directory))
        if (directory / _OLD_SHARDS).is_dir():
            weights = "--model with the directory that that version's cleaner_rl.export writes"
        raise CheckpointError(
            f"{directory} was written by an earlier version of cleaner-rl and cannot be resumed; "
            f"finish it with that version, or start a new run from its weights: {weights}"
        )
    verify_checkpoint(directory)
    return _read(directory, STATE)


def load_tensors(
    directory: Path, tensors: Mapping[str, Tensor], ranks: Ranks | None = None
) -> None:
    """Fill tensors, sharded or whole, from a checkpoint's tensors of the same names.

    In a process group, every rank has to call this; without one, a process reads everything.
    """
    if not tensors:
        return
    try:
        with _without_warning():
            load(dict(tensors), checkpoint_id=directory / TRAINER)
    except _ERRORS as error:
        if ranks and ranks.lost_another(error):
            raise
        raise CheckpointError(
            f"cannot continue from {directory}: {error}; was it written by a run of the same model "
            "and --lora-rank?"
        ) from error


def remove_checkpoint(directory: Path) -> None:
    """Remove a checkpoint. It is renamed first, so an interrupted removal leaves no broken one."""
    gone = partial_path(directory)
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(OSError):
        os.replace(directory, gone)
    shutil.rmtree(gone, ignore_errors=True)


def remove_partial(checkpoints: Path) -> None:
    """Remove what is left of checkpoints that a killed process was writing or removing."""
    for partial in checkpoints.glob(partial_path(Path("step-*")).name):
        shutil.rmtree(partial, ignore_errors=True)


def verify_checkpoint(directory: Path) -> None:
    """Compare the size of every file with the manifest."""
    for name, expected in _read(directory, MANIFEST).items():
        file = directory / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; {_remedy(directory)}")
        if (size := file.stat().st_size) != expected["bytes"]:
            raise CheckpointError(
                f"{file} is damaged: it has {size} bytes instead of {expected['bytes']}; "
                f"{_remedy(directory)}"
            )


def _read(directory: Path, name: str) -> dict[str, Any]:
    """Read one of a checkpoint's own files."""
    try:
        data: dict[str, Any] = json.loads((directory / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{directory} is not a complete checkpoint ({name}: {error}); {_remedy(directory)}"
        ) from error
    return data


def _remedy(directory: Path) -> str:
    others = [p.name for p in list_checkpoints(directory.parent) if p != directory]
    if others:
        return f"remove {directory} to continue from {others[-1]}"
    return "this run has no earlier checkpoint, so it has to be started again"


def list_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(directory.glob("step-*"))


@contextmanager
def _without_warning() -> Iterator[None]:
    """Silence torch's warning that a single process is not distributed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield
