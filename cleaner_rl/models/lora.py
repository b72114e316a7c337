"""LoRA: low-rank adapters that are trained in the place of the weights (2106.09685), by peft."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from cleaner_rl.errors import CheckpointError, PolicyError


def add_lora(model: Any, rank: int, alpha: float) -> None:
    """Put an adapter beside every linear layer but the head, and freeze all other weights.

    The model stays the class that it is; its numbers do not change before the first update.

    Args:
        model: a transformers causal language model.
        rank: of the adapters.
        alpha: the adapters' output is multiplied by ``alpha / rank``.

    Raises:
        PolicyError: peft is not installed.
    """
    if find_spec("peft") is None:
        raise PolicyError(
            "--lora-rank needs peft: pip install 'cleaner-rl[lora]'; or train all weights with "
            "--lora-rank 0"
        )
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear")
    inject_adapter_in_model(settings, model)


def has_lora(model: Any) -> bool:
    """Whether the model has adapters."""
    return bool(adapter_state(model))


def adapter_state(model: Any) -> dict[str, Tensor]:
    """The adapters' weights by name."""
    return {name: p for name, p in model.named_parameters() if ".lora_" in name}


@torch.no_grad()
def load_adapter_state(model: Any, state: Mapping[str, Tensor]) -> None:
    """Put back what ``adapter_state`` gave.

    Raises:
        CheckpointError: it belongs to other adapters.
    """
    mine = adapter_state(model)
    if {n: p.shape for n, p in mine.items()} != {n: p.shape for n, p in state.items()}:
        raise CheckpointError(
            "the checkpoint's LoRA adapters do not fit this model; give the --model and "
            "--lora-rank that the run was started with"
        )
    for name, parameter in mine.items():
        parameter.copy_(state[name])


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """The model as it was before ``add_lora``, inside the block."""
    layers = _layers(model)
    for layer in layers.values():
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers.values():
            layer.enable_adapters(True)


@torch.no_grad()
def merged_state(model: Any) -> dict[str, Tensor]:
    """The weights of a plain model that computes the same, by their plain names."""
    state = {
        name.replace(".base_layer.", "."): value
        for name, value in model.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in _layers(model).items():
        weight = layer.get_base_layer().weight
        state[f"{name}.weight"] = weight + sum(
            layer.get_delta_weight(adapter).to(weight.dtype) for adapter in layer.lora_A
        )
    return state


def require_same_base(model: Any, checkpoint: Path) -> None:
    """Check that the adapters of a checkpoint belong to the base weights in ``model``.

    A checkpoint holds merged weights; those of a layer are compared with what base and adapters
    give now.

    Raises:
        CheckpointError: they differ; the base was replaced since the run began.
    """
    name = f"{next(iter(_layers(model)))}.weight"
    mine = merged_state(model)[name]
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            if name not in weights.keys():  # noqa: SIM118 (no mapping)
                continue
            if torch.allclose(weights.get_tensor(name), mine.cpu(), rtol=1e-4, atol=1e-6):
                return
    raise CheckpointError(
        f"the model that the run in {checkpoint.parent.parent} started from has changed, its LoRA "
        "adapters do not belong to it; put the old one back, or start a new run from the merged "
        f"checkpoint with --model {checkpoint}"
    )


def _layers(model: Any) -> dict[str, Any]:
    """The layers with adapters by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "get_delta_weight")
    }
