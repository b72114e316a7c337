"""Provenance: which weights, tasks and packages results were made with, to tell changes later."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from cleaner_env.task import Task

_PACKAGES = ("cleaner-rl", "torch", "transformers", "gymnasium", "reasoning-gym", "numpy")
_NUMBERS = 1024
"""Numbers read from each parameter, evenly spaced. Training changes nearly all of them."""


@torch.no_grad()
def weights_fingerprint(model: Any) -> str:
    """A digest that is equal for equal weights on any device, and differs after any training.

    It covers names, shapes and a sample of the numbers in float32, so it takes only moments even
    for a large model.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        numbers = parameter.detach().reshape(-1)
        chosen = numbers[:: max(1, numbers.numel() // _NUMBERS)]
        digest.update(chosen.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def tasks_digest(tasks: Sequence[Task]) -> str:
    """A digest of every prompt, answer and reward."""
    digest = hashlib.blake2b(digest_size=8)
    for task in tasks:
        digest.update(f"{task.prompt}\0{task.answer}\0{task.reward}\0".encode("utf-8", "replace"))
    return digest.hexdigest()


def made_with() -> dict[str, str]:
    """Versions of Python and of packages that results depend on, and the kind of machine."""
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, {platform.system()}",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
