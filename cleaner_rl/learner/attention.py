"""Attention over a packed row: every token attends to the tokens that lead to it, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.modeling_flash_attention_utils import _flash_attention_forward
from transformers.utils import (
    is_flash_attn_2_available,
    is_flash_attn_3_available,
    is_flash_attn_4_available,
)

from cleaner_rl.learner.packing import Segments
from cleaner_rl.models.backends import has_varlen, varlen

PACKED = "cleaner_packed"
"""Name under which transformers finds ``packed_attention``. It has no registered mask function, so
transformers builds no mask: the segments alone say what a token attends to."""

_KEPT_KEYS = 4
"""Keys for each query that are kept until the backward pass; if there are more, because many
segments share a long prefix, attention is computed again instead."""


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
        _mask.cache_clear()  # a mask of long paths is large


Backend = Literal[
    "flash_attention_4", "flash_attention_3", "flash_attention_2", "varlen_attn", "sdpa"
]
"""The flash attentions have the names under which transformers dispatches to them."""


def backend(device: torch.device, dtype: torch.dtype, head_dim: int) -> Backend:
    """The implementation that attention runs on. On CUDA in half precision it is the fastest
    installed flash-attn, or else torch's ``varlen_attn``; otherwise one SDPA call per segment."""
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
    segments: Segments | None = None,
    sliding_window: int | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """Causal attention along the paths of a packed row, with the signature of transformers.

    Args:
        query: [1, heads, U, head_dim].
        key, value: [1, key_value_heads, U, head_dim].
        scaling: factor on the scores; None means ``head_dim ** -0.5``.
        segments: take the place of a mask.
        sliding_window: the layer's window, in tokens.

    Returns:
        [1, U, heads, head_dim], and None for the attention weights.
    """
    assert segments is not None, "its layers do not pass on the segments of the row"
    assert attention_mask is None and dropout == 0.0
    if sliding_window is not None and sliding_window >= max(segments.keys):
        sliding_window = None
    if torch.is_autocast_enabled(query.device.type):
        # Rotary embeddings leave queries and keys in float32; the kernels need a single dtype.
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    heads = (x.transpose(1, 2) for x in (query, key, value))
    attend = partial(_attend, scaling=scaling, segments=segments, window=sliding_window)
    if sum(segments.keys) > _KEPT_KEYS * query.shape[2] and torch.is_grad_enabled():
        out_1UHD: Tensor = checkpoint(attend, *heads, use_reentrant=False, preserve_rng_state=False)
        return out_1UHD, None
    return attend(*heads), None


def _attend(
    query_1UHD: Tensor,
    key_1UHD: Tensor,
    value_1UHD: Tensor,
    *,
    scaling: float | None,
    segments: Segments,
    window: int | None,
) -> Tensor:
    keys, values = (_along_paths(x, segments.path_P) for x in (key_1UHD, value_1UHD))
    ends = segments.query_ends_S1, segments.key_ends_S1
    longest = max(segments.queries), max(segments.keys)
    chosen = backend(query_1UHD.device, query_1UHD.dtype, query_1UHD.shape[-1])
    if chosen == "sdpa":
        return _sdpa_by_segment(query_1UHD, keys, values, scaling, segments, window)
    if chosen == "varlen_attn":
        q_UHD, k_PHD, v_PHD = (x[0].contiguous() for x in (query_1UHD, keys, values))
        return varlen(q_UHD, k_PHD, v_PHD, *ends, longest, scaling, window)[None]
    out_1UHD: Tensor = _flash_attention_forward(
        query_1UHD,
        keys,
        values,
        attention_mask=None,
        query_length=query_1UHD.shape[1],
        is_causal=True,
        softmax_scale=scaling,
        sliding_window=window,
        cu_seq_lens_q=ends[0],
        cu_seq_lens_k=ends[1],
        max_length_q=longest[0],
        max_length_k=longest[1],
        attn_implementation=chosen,
    )
    return out_1UHD


def _along_paths(x_1UHD: Tensor, path_P: Tensor | None) -> Tensor:
    """[1, P, H, D]: the entries of all paths, one path after another."""
    if path_P is None:
        return x_1UHD
    # The gradient of an embedding is summed in the same order every time, in float32 on a GPU.
    x_PN = F.embedding(path_P, x_1UHD[0].flatten(1))
    return x_PN.view(1, len(path_P), *x_1UHD.shape[2:])


def _sdpa_by_segment(
    query_1UHD: Tensor,
    key_1PHD: Tensor,
    value_1PHD: Tensor,
    scaling: float | None,
    segments: Segments,
    window: int | None,
) -> Tensor:
    query, key, value = (x.transpose(1, 2) for x in (query_1UHD, key_1PHD, value_1PHD))
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    lengths = zip(segments.queries, segments.keys, strict=True)
    masked = [pair for pair in lengths if _masked(*pair, window)]
    longest = [max(of_all) for of_all in zip(*masked, strict=True)]
    parts = []
    for q, k, v in zip(
        query.split(segments.queries, dim=2),
        *(x.split(segments.keys, dim=2) for x in (key, value)),
        strict=True,
    ):
        count, keys = q.shape[2], k.shape[2]
        mask = None
        if _masked(count, keys, window):
            mask = _mask(*longest, window, q.dtype, q.device)[-count:, -keys:]
            mask = mask.contiguous() if q.is_cuda else mask  # its kernels want aligned rows
        parts.append(
            F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()  # some models take a view of it


def _masked(queries: int, keys: int, window: int | None) -> bool:
    """Whether attention is more than causal attention of a sequence to itself."""
    return queries < keys or (window is not None and keys > window)


@lru_cache(maxsize=2)  # for the layers of a model with a window and those without
def _mask(
    queries: int, keys: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """[queries, keys]: 0 where a query sees a key, -inf elsewhere; the last query sees the last
    key. The lower right corner is the same for fewer queries or keys."""
    before = keys - queries
    hidden_QK = torch.full((queries, keys), -torch.inf, dtype=dtype, device=device)
    mask_QK = hidden_QK.triu(before + 1)
    return mask_QK if window is None else mask_QK + hidden_QK.tril(before - window)


AttentionInterface.register(PACKED, packed_attention)
