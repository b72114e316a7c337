"""Kernels faster than those of transformers, where a GPU and the packages for them are present."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from cleaner_rl.settings import Precision


def has_triton(device: torch.device) -> bool:
    """Whether Triton kernels run there: on CUDA, with the Triton that comes with torch."""
    return device.type == "cuda" and find_spec("triton") is not None


def apply_liger(model: Any) -> bool:
    """Compute the norms, rotary embeddings and gated MLPs of a model on a GPU with liger-kernel.

    Results and gradients equal those of the model's own modules up to rounding. Models on a CPU
    and models created later are not affected. Returns False where liger-kernel is not installed
    or does not support the model.
    """
    if model.device.type != "cuda" or find_spec("liger_kernel") is None:
        return False
    # It warns about every kind of device that is absent.
    logging.getLogger("liger_kernel.backends").setLevel(logging.ERROR)
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    apply = MODEL_TYPE_TO_APPLY_LIGER_FN.get(model.config.model_type)
    if apply is None:
        return False
    # It patches not only this model but the module that all models of its family are built from,
    # those on a CPU included.
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


def has_varlen(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether ``varlen`` works there: on CUDA in half precision."""
    half = dtype in (torch.bfloat16, torch.float16)
    return device.type == "cuda" and half and head_dim % 8 == 0 and head_dim <= 256


def varlen(
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    q_ends: Tensor,
    k_ends: Tensor,
    longest: tuple[int, int],
    scaling: float | None,
    window: int | None,
    k_used: Tensor | None = None,
) -> Tensor:
    """Causal attention within each sequence, aligned so that the last query sees the last key.

    Args:
        q_THD: queries of all sequences.
        k_THD, v_THD: keys and values, with fewer heads where query heads share them.
        q_ends, k_ends: [S + 1] int32, the start of each sequence and the end of the last.
        longest: the largest number of queries, and of keys, in one sequence.
        scaling: factor on the scores; None means ``head_dim ** -0.5``.
        window: number of keys that a query sees, its own included; None for all.
        k_used: [S] int32, how many keys of each sequence count, where it has room for more; such
            a pass has no gradient.

    Returns:
        [T, H, D].
    """
    # A lone query is the last one and sees every key. Without a bound on the right, the kernel
    # handles the query heads that share a key head together and reads the keys only once.
    right = -1 if longest[0] == 1 and window is None else 0
    sides = (-1 if window is None else window - 1, right)
    if k_used is not None:
        # varlen_attn accepts k_used only from torch 2.12 on; this is what it calls.
        out_THD: Tensor = torch.ops.aten._flash_attention_forward(
            q_THD,
            k_THD,
            v_THD,
            q_ends,
            k_ends,
            *longest,
            0.0,
            sides == (-1, 0),
            False,
            scale=scaling,
            window_size_left=sides[0],
            window_size_right=sides[1],
            seqused_k=k_used,
        )[0]
        return out_THD
    # Before torch 2.12, query heads may share keys without this option.
    shared: dict[str, Any] = {"enable_gqa": True} if torch.__version__ >= "2.12" else {}
    output = varlen_attn(
        q_THD, k_THD, v_THD, q_ends, k_ends, *longest, scale=scaling, window_size=sides, **shared
    )
    assert isinstance(output, Tensor)
    return output


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Run the matrix products inside the block in that precision."""
    if precision == "float32":
        return nullcontext()
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype)
