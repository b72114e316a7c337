"""Optimizer: AdamW on float32 weights, with gradient clipping, and loss scaling for float16."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from cleaner_rl.distributed.fsdp import whole
from cleaner_rl.errors import PolicyError

_MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, apart from its step."""


class Optimizer:
    """Accumulates gradients and takes a step with them, unless they are not finite.

    Parameters with ``requires_grad`` are updated, by gradients of a norm of ``grad_clip`` at most.
    ``scaled`` scales the loss, so that the gradients of a float16 pass do not vanish; the scale is
    lowered when they overflow.
    """

    def __init__(
        self, model: Any, learning_rate: float, weight_decay: float, grad_clip: float, scaled: bool
    ) -> None:
        self.grad_clip = grad_clip
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters = list(self.named.values())
        self.adamw = torch.optim.AdamW(
            self.parameters,
            lr=learning_rate,
            weight_decay=weight_decay,
            fused=all(p.device.type in ("cpu", "cuda") for p in self.parameters),
        )
        self._scaler = torch.amp.GradScaler(model.device.type, enabled=scaled)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs in addition to ``moments``: plain numbers."""
        steps = adam_steps(self.adamw, self.named)
        return {"adam_steps": steps, "scaler": self._scaler.state_dict()}

    def moments(self) -> dict[str, Tensor]:
        """AdamW's moments by name: the tensors themselves, sharded like the parameters."""
        return adam_moments(self.adamw, self.named)

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a ``state``; the moments are zero and have to be filled afterwards."""
        start_adam(self.adamw, self.named, state["adam_steps"])
        self._scaler.load_state_dict(state["scaler"])

    def zero(self) -> None:
        """Drop the gradients."""
        self.adamw.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to those already there."""
        self._scaler.scale(loss).backward()

    def step(self, learning_rate: float) -> float:
        """Update the weights, unless a gradient is not finite.

        Returns:
            The gradient norm before clipping; not finite if the update was skipped.
        """
        self._scaler.unscale_(self.adamw)
        norm = float(whole(nn.utils.clip_grad_norm_(self.parameters, self.grad_clip)))
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate
        # The scaler itself skips a step with infinite gradients and lowers its scale.
        if math.isfinite(norm) or self._scaler.is_enabled():
            self._scaler.step(self.adamw)
        self._scaler.update()
        return norm


def adam_steps(adamw: torch.optim.AdamW, named: Mapping[str, Tensor]) -> dict[str, float]:
    """The number of updates of each parameter that has had any."""
    return {name: float(adamw.state[p]["step"]) for name, p in named.items() if p in adamw.state}


def adam_moments(adamw: torch.optim.AdamW, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The moments of the parameters that have been updated (the tensors themselves)."""
    return {
        f"{kind}.{name}": adamw.state[p][kind]
        for name, p in named.items()
        if p in adamw.state
        for kind in _MOMENTS
    }


def start_adam(
    adamw: torch.optim.AdamW, named: Mapping[str, Tensor], steps: Mapping[str, float]
) -> None:
    """Continue from ``adam_steps``; the moments are zero and have to be filled afterwards."""
    for name, step in steps.items():
        p = named[name]
        adamw.state[p] = {
            "step": torch.tensor(step, dtype=torch.float32, device=p.device),
            **{kind: torch.zeros_like(p) for kind in _MOMENTS},
        }


@contextmanager
def layers_recomputed(model: Any, on: bool) -> Iterator[None]:
    """Use gradient checkpointing inside the block: layers recompute their activations.

    transformers does so in training mode only. That mode is set on the layers alone and not on
    their parts, so that dropout stays off, and it is reset for the sampler.

    Raises:
        PolicyError: the model's layers do not support it.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)] if on else []
    if on and not layers:
        raise PolicyError(
            f"{type(model).__name__} has no layers that transformers can recompute; omit "
            "--gradient-checkpointing"
        )
    for layer in layers:
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        layer.gradient_checkpointing = layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = False
