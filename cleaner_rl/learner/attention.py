"""Attention over packed samples: every token attends to earlier tokens of its own sample only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_flash_attention_utils import _flash_attention_forward
from transformers.utils import (
    is_flash_attn_2_available,
    is_flash_attn_3_available,
    is_flash_attn_4_available,
)

from cleaner_rl.models.backends import has_varlen, varlen

PACKED = "cleaner_packed"
"""Name under which transformers finds ``packed_attention``. It has no registered mask function, so
transformers builds no mask: the boundaries alone tell the samples apart."""


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """Inside the block, let the model attend within samples only, forward and backward.

    Afterwards the model has its original attention again.
    """
    before = model.config._attn_implementation
    if before == PACKED:
        yield
        return
    model.set_attn_implementation(PACKED)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


Backend = Literal[
    "flash_attention_4", "flash_attention_3", "flash_attention_2", "varlen_attn", "sdpa"
]
"""The flash attentions have the names under which transformers dispatches to them."""


def backend(device: torch.device, dtype: torch.dtype, head_dim: int) -> Backend:
    """The implementation that attention runs on. On CUDA in half precision it is the fastest
    installed flash-attn, or else torch's ``varlen_attn``; otherwise one SDPA call per sample."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return "sdpa"
    # Version 3 supports only Hopper (generation 9), version 4 Hopper and Blackwell.
    generation = torch.cuda.get_device_capability(device)[0]
    if generation == 9 and is_flash_attn_3_available():
        return "flash_attention_3"
    if generation >= 9 and is_flash_attn_4_available():
        return "flash_attention_4"
    if is_flash_attn_2_available():
        return "flash_attention_2"
    return "varlen_attn" if has_varlen(device, dtype, head_dim) else "sdpa"


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
    lengths: Sequence[int] = (),
    sliding_window: int | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sample of a packed row, with the signature of transformers.

    Args:
        query: [1, heads, T, head_dim].
        key, value: [1, key_value_heads, T, head_dim].
        scaling: factor on the scores; None means ``head_dim ** -0.5``.
        boundaries_S1: [S + 1] int32, the start of each sample and the end of the row; they take
            the place of a mask.
        lengths: the lengths of the samples.
        sliding_window: the layer's window, in tokens.

    Returns:
        [1, T, heads, head_dim], and None for the attention weights.
    """
    assert boundaries_S1 is not None, "its layers do not pass on the boundaries of samples"
    assert attention_mask is None and dropout == 0.0
    if sliding_window is not None and sliding_window >= max(lengths):
        sliding_window = None
    if torch.is_autocast_enabled(query.device.type):
        # Rotary embeddings leave queries and keys in float32; the kernels need a single dtype.
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    chosen = backend(query.device, query.dtype, query.shape[-1])
    if chosen == "sdpa":
        return _per_sample_sdpa(query, key, value, scaling, lengths, sliding_window), None
    if chosen == "varlen_attn":
        out_THD = varlen(
            query[0].transpose(0, 1).contiguous(),
            key[0].transpose(0, 1).contiguous(),
            value[0].transpose(0, 1).contiguous(),
            boundaries_S1,
            boundaries_S1,
            (max(lengths), max(lengths)),
            scaling,
            sliding_window,
        )
        return out_THD[None], None
    out_1THD: Tensor = _flash_attention_forward(
        *(x.transpose(1, 2) for x in (query, key, value)),
        attention_mask=None,
        query_length=query.shape[2],
        is_causal=True,
        softmax_scale=scaling,
        sliding_window=sliding_window,
        cu_seq_lens_q=boundaries_S1,
        cu_seq_lens_k=boundaries_S1,
        max_length_q=max(lengths),
        max_length_k=max(lengths),
        attn_implementation=chosen,
    )
    return out_1THD, None


def _per_sample_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    lengths: Sequence[int],
    sliding_window: int | None,
) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    parts = [
        F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=_window_mask(length, sliding_window, q.device),
            is_causal=sliding_window is None or length <= sliding_window,
            scale=scaling,
        )
        for length, q, k, v in zip(
            lengths,
            *(x.split(list(lengths), dim=2) for x in (query, key, value)),
            strict=True,
        )
    ]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()  # some models take a view of it


def _window_mask(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """[T, T]: True where a token sees another, that is itself and the ``window - 1`` tokens before
    it. None if the window holds the whole sample."""
    if window is None or length <= window:
        return None
    positions_T = torch.arange(length, device=device)
    distance_TT = positions_T[:, None] - positions_T
    return (distance_TT >= 0) & (distance_TT < window)


AttentionInterface.register(PACKED, packed_attention)
