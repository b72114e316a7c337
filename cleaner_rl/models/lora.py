"""LoRA (arXiv 2106.09685): low-rank adapters from peft, trained instead of the full weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from cleaner_rl.errors import PolicyError


def add_lora(model: Any, rank: int, alpha: float) -> None:
    """Add an adapter to every linear layer except the head, and freeze all other weights.

    The model keeps its class, and its outputs do not change before the first update. The adapters'
    output is multiplied by ``alpha / rank``.
    """
    if find_spec("peft") is None:
        raise PolicyError(
            "--lora-rank needs peft: pip install -e '.[lora]'; or train all weights with "
            "--lora-rank 0"
        )
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear")
    inject_adapter_in_model(settings, model)


def has_lora(model: Any) -> bool:
    return bool(adapter_state(model))


def adapter_state(model: Any) -> dict[str, Tensor]:
    """The adapters' weights, by name."""
    return {name: p for name, p in model.named_parameters() if ".lora_" in name}


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """Let the model compute inside the block as it did before ``add_lora``."""
    layers = adapted_layers(model)
    for layer in layers.values():
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers.values():
            layer.enable_adapters(True)


def adapted_layers(model: Any) -> dict[str, Any]:
    """The layers that have adapters, by the plain name of the weight that these change: a linear
    layer's, or a tensor that holds all experts of a mixture."""
    return {
        plain_name(f"{name}.{getattr(module, 'parameter_name', 'weight')}"): module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "get_delta_weight")
    }


def plain_name(name: str) -> str:
    """A weight's name in the model without adapters."""
    return name.replace(".base_layer", "")
