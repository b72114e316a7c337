"""Kernels: faster ones than those of transformers, where a GPU and the packages for it are."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch


def has_triton(device: torch.device) -> bool:
    """Kernels in Triton run there: on CUDA, with the Triton that comes with torch."""
    return device.type == "cuda" and find_spec("triton") is not None


def fuse(model: Any) -> bool:
    """Let a model on a GPU compute norms, rotary embeddings and gated MLPs with liger-kernel.

    The functions, and their gradients, are those of the model's own modules but for rounding.
    Models on a CPU, and those that are made later, are left as they are.

    Args:
        model: a transformers causal language model.

    Returns:
        Whether it does: liger-kernel is installed, knows the model, and that lies on a GPU.
    """
    if model.device.type != "cuda" or find_spec("liger_kernel") is None:
        return False
    # It warns of each kind of device that is not there.
    logging.getLogger("liger_kernel.backends").setLevel(logging.ERROR)
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    apply = MODEL_TYPE_TO_APPLY_LIGER_FN.get(model.config.model_type)
    if apply is None:
        return False
    # Besides this model it changes what transformers makes all models of the family of, for the
    # CPU too.
    family = vars(sys.modules[type(model).__module__])
    before = dict(family)
    losses = {"cross_entropy", "fused_linear_cross_entropy"}
    apply(model=model, **dict.fromkeys(losses & inspect.signature(apply).parameters.keys(), False))
    rotate = family.get("apply_rotary_pos_emb")
    family.update(before)
    plain = before.get("apply_rotary_pos_emb")
    if rotate is not plain and not hasattr(plain, "on_cpu"):
        family["apply_rotary_pos_emb"] = _by_device(rotate, plain)
    return True


def _by_device(on_gpu: Any, on_cpu: Any) -> Callable[..., Any]:
    def apply_rotary_pos_emb(q: Any, *arguments: Any, **options: Any) -> Any:
        return (on_gpu if q.is_cuda else on_cpu)(q, *arguments, **options)

    apply_rotary_pos_emb.on_cpu = on_cpu  # type: ignore[attr-defined]
    return apply_rotary_pos_emb
