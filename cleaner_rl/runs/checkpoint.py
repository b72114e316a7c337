"""Checkpoint: a policy and its optimiser on disk, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from cleaner_rl.errors import CheckpointError
from cleaner_rl.models.policy import Policy

MANIFEST = "manifest.json"
STATE = "trainer_state.pt"


def save_checkpoint(directory: Path, policy: Policy, state: dict[str, Any]) -> None:
    """Write a plain Hugging Face directory plus the trainer's state.

    Everything goes to a neighbouring directory first, which takes the name when it is complete, so
    an interrupted write leaves no half checkpoint. A manifest holds size and hash of each file.

    Raises:
        CheckpointError: the directory cannot be written; what was written of it is gone.
    """
    partial = directory.with_name(partial_name(directory))
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        policy.save(partial)
        torch.save(state, partial / STATE)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        write_manifest(partial, {str(f.relative_to(partial)): fingerprint(f) for f in files})
        complete(partial, directory)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise write_error(directory, error) from error


def partial_name(directory: Path) -> str:
    """Name of the neighbour that a checkpoint is written to; no listing shows it."""
    return f".{directory.name}.partial"


def write_manifest(partial: Path, entries: Mapping[str, Any]) -> None:
    """Write what ``fingerprint`` gave for each file."""
    (partial / MANIFEST).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def complete(partial: Path, directory: Path) -> None:
    """Give a directory whose files are all written its name."""
    for file in partial.rglob("*"):
        if file.is_file():
            _sync(file)
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(partial, directory)
    _sync(directory.parent)


def write_error(directory: Path, error: BaseException) -> CheckpointError:
    """Why a checkpoint could not be written, in a sentence."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return CheckpointError(
        f"cannot write the checkpoint {directory}: {reason[0]}; earlier checkpoints are untouched. "
        "Is the disk full, or a quota? Lower --keep-checkpoints if there are several"
    )


def remove_checkpoint(directory: Path) -> None:
    """Remove a checkpoint. It is no checkpoint any more before its first file is gone."""
    gone = directory.with_name(partial_name(directory))
    shutil.rmtree(gone, ignore_errors=True)
    try:
        os.replace(directory, gone)
    except OSError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def remove_partial(checkpoints: Path) -> None:
    """Remove what a killed process left of a checkpoint that it was writing or removing."""
    for partial in checkpoints.glob(partial_name(Path("step-*"))):
        shutil.rmtree(partial, ignore_errors=True)


def load_state(directory: Path, rank: int = 0, ranks: int = 1) -> dict[str, Any]:
    """The trainer's state of a checkpoint, after a check that its files are whole.

    Args:
        directory: of the checkpoint.
        rank: of this process, which looks at its share of the files.
        ranks: processes that share the files.

    Raises:
        CheckpointError: a file is missing, cut short or changed.
    """
    verify_checkpoint(directory, rank, ranks)
    state: dict[str, Any] = torch.load(directory / STATE, map_location="cpu", weights_only=True)
    return state


def verify_checkpoint(directory: Path, rank: int = 0, ranks: int = 1) -> None:
    """Compare every file, or a process's share of them, with the manifest.

    Raises:
        CheckpointError: a file is missing, cut short or changed.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{directory} is no complete checkpoint ({error}); {_remedy(directory)}"
        ) from error
    for name, expected in list(manifest.items())[rank::ranks]:
        file = directory / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; {_remedy(directory)}")
        if fingerprint(file) != expected:
            raise CheckpointError(
                f"{file} is damaged: it has {file.stat().st_size} bytes, {expected['bytes']} were "
                f"written; {_remedy(directory)}"
            )


def _remedy(directory: Path) -> str:
    others = [p.name for p in list_checkpoints(directory.parent) if p != directory]
    if others:
        return f"remove {directory} to continue from {others[-1]}"
    return "there is no earlier one in this run, so it has to be started again"


def list_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(directory.glob("step-*"))


def fingerprint(file: Path) -> dict[str, Any]:
    """Size and hash of a file."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "blake2b").hexdigest()
    return {"bytes": file.stat().st_size, "blake2b": digest}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
