"""Checkpoint: a policy and its optimiser on disk, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from cleaner_rl.errors import CheckpointError
from cleaner_rl.policy import Policy

_MANIFEST = "manifest.json"
_STATE = "trainer_state.pt"


def save_checkpoint(directory: Path, policy: Policy, state: dict[str, Any]) -> None:
    """Write a plain Hugging Face directory plus the trainer's state.

    Everything goes to a neighbouring directory first, which takes the name when it is complete, so
    an interrupted write leaves no half checkpoint. A manifest holds size and hash of each file.

    Raises:
        CheckpointError: the directory cannot be written.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        policy.save(partial)
        torch.save(state, partial / _STATE)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        manifest = {str(file.relative_to(partial)): _fingerprint(file) for file in files}
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for file in (*files, partial / _MANIFEST):
            _sync(file)
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(partial, directory)
        _sync(directory.parent)
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"cannot write the checkpoint {directory}: {error}; earlier checkpoints are untouched"
        ) from error


def load_state(directory: Path) -> dict[str, Any]:
    """The trainer's state of a checkpoint, after a check that all its files are whole.

    Raises:
        CheckpointError: a file is missing, cut short or changed.
    """
    verify_checkpoint(directory)
    state: dict[str, Any] = torch.load(directory / _STATE, map_location="cpu", weights_only=True)
    return state


def verify_checkpoint(directory: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        CheckpointError: a file is missing, cut short or changed.
    """
    try:
        manifest = json.loads((directory / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{directory} is no complete checkpoint ({error}); {_remedy(directory)}"
        ) from error
    for name, expected in manifest.items():
        file = directory / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; {_remedy(directory)}")
        if _fingerprint(file) != expected:
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


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "blake2b").hexdigest()
    return {"bytes": file.stat().st_size, "blake2b": digest}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
