"""Attention over packed samples: every token attends to earlier tokens of its own sample only."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

PACKED = "cleaner_packed"
"""Name under which transformers finds ``packed_attention``. No mask function is registered for it,
so transformers builds no mask: the boundaries alone say what belongs together."""

Backend = Literal["flash_attn", "varlen_attn", "sdpa"]


def backend(device: torch.device, dtype: torch.dtype) -> Backend:
    """What computes the attention: on CUDA in half precision flash-attn when it is installed, else
    torch's ``varlen_attn`` where this torch has it; one SDPA call a sample everywhere else."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return "sdpa"
    if find_spec("flash_attn") is not None:
        return "flash_attn"
    return "varlen_attn" if find_spec("torch.nn.attention.varlen") is not None else "sdpa"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    boundaries_S1: Tensor | None = None,
    longest: int = 0,
    sliding_window: int | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each sample of a packed row, in transformers' attention interface.

    Args:
        module: the attention layer (unused).
        query: [1, heads, T, head_dim].
        key: [1, key_value_heads, T, head_dim].
        value: as ``key``.
        attention_mask: must be None; the boundaries say it all.
        scaling: of the scores; ``head_dim ** -0.5`` when None.
        dropout: must be 0.
        boundaries_S1: [S + 1] int32 start of each sample and end of the row.
        longest: length of the longest sample.
        sliding_window: of the layer, in tokens.
        _unused: what transformers passes to every attention function.

    Returns:
        [1, T, heads, head_dim], and None for the attention weights.
    """
    assert boundaries_S1 is not None, "packed attention needs the boundaries of the samples"
    assert attention_mask is None and dropout == 0.0
    if sliding_window is not None and sliding_window >= longest:
        sliding_window = None
    window = (-1, 0) if sliding_window is None else (sliding_window - 1, 0)
    if torch.is_autocast_enabled(query.device.type):
        # Rotary embeddings leave queries and keys in float32; the kernels want one dtype.
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    chosen = backend(query.device, query.dtype)
    if chosen == "sdpa":
        if sliding_window is not None:
            raise ValueError(
                f"a sample of {longest} tokens exceeds the layer's sliding window of "
                f"{sliding_window}; without flash-attn or varlen_attn this is not supported, "
                "shorten the episodes"
            )
        return _per_sample_sdpa(query, key, value, scaling, boundaries_S1), None
    q_THD, k_THD, v_THD = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    if chosen == "flash_attn":
        from flash_attn import flash_attn_varlen_func

        out_THD = flash_attn_varlen_func(
            q_THD,
            k_THD,
            v_THD,
            boundaries_S1,
            boundaries_S1,
            longest,
            longest,
            softmax_scale=scaling,
            causal=True,
            window_size=(window[0], window[1]),
        )
    else:
        from torch.nn.attention.varlen import varlen_attn

        out_THD = varlen_attn(
            q_THD,
            k_THD,
            v_THD,
            boundaries_S1,
            boundaries_S1,
            longest,
            longest,
            scale=scaling,
            window_size=window,
            enable_gqa=q_THD.shape[1] != k_THD.shape[1],
        )
    assert isinstance(out_THD, Tensor)
    return out_THD[None], None


def _per_sample_sdpa(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, boundaries_S1: Tensor
) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    lengths = boundaries_S1.diff().tolist()
    parts = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
        for q, k, v in zip(
            query.split(lengths, dim=2),
            key.split(lengths, dim=2),
            value.split(lengths, dim=2),
            strict=True,
        )
    ]
    return torch.cat(parts, dim=2).transpose(1, 2)


AttentionInterface.register(PACKED, packed_attention)
