"""Fingerprint: a short name for a model's weights, to tell whether they are still the same."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

_NUMBERS = 1024
"""That are looked at in each parameter, evenly spread. Training changes nearly all of them."""


@torch.no_grad()
def weights_fingerprint(model: Any) -> str:
    """Equal for equal weights on any device, and different after any training of them.

    It is made of names, shapes and a sample of the numbers in float32, so it takes moments for a
    model of any size.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        numbers = parameter.detach().reshape(-1)
        chosen = numbers[:: max(1, numbers.numel() // _NUMBERS)]
        digest.update(chosen.float().cpu().numpy().tobytes())
    return digest.hexdigest()
