"""Row attention: queries of many conversations over a cache that has one row for each.

A conversation starts at the beginning of its row, so a token's position is also its cell. All rows
are as long as the longest needs; cells after a conversation's last token are never attended to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from cleaner_rl.models.backends import has_triton, has_varlen, varlen

ROWS = "cleaner_rows"
"""Name under which transformers finds ``row_attention``. It has no registered mask function, so
transformers builds no mask: the layout of a pass says what its queries may attend to."""


@dataclass(frozen=True, slots=True)
class PrefillSegment:
    """Several new tokens of one conversation.

    Attributes:
        row: the conversation's row.
        start: how many of its tokens are in the cache already.
        count: how many are new.
    """

    row: int
    start: int
    count: int

    @property
    def end(self) -> int:
        """Tokens in the cache after the pass."""
        return self.start + self.count

    def bias(self, window: int | None, like: Tensor) -> Tensor:
        """Additive mask, [1, count, end]: queries see their past, within the window if any."""
        cells_T = torch.arange(self.end, device=like.device)
        return _bias(cells_T[self.start :], cells_T, window, like.dtype)[None]


class BatchLayout:
    """Where the tokens of a forward pass belong: one for each of the first rows, then segments.

    Args:
        decoded_B: the cells of the first rows' tokens.
        reach: the largest number of cells that those tokens attend to.
        segments: those of the following rows, in order.

    Attributes:
        rows_N, cells_N: the row and the cell of each token.
    """

    def __init__(
        self, decoded_B: Tensor, reach: int, segments: Sequence[PrefillSegment] = ()
    ) -> None:
        device = decoded_B.device
        self.decoded_B = decoded_B
        self.reach = reach
        self.segments = segments
        rows = [segment.row for segment in segments for _ in range(segment.count)]
        cells = [cell for segment in segments for cell in range(segment.start, segment.end)]
        self.rows_N = torch.arange(len(decoded_B), device=device)
        self.cells_N = decoded_B
        if segments:
            self.rows_N = torch.cat([self.rows_N, torch.tensor(rows, device=device)])
            self.cells_N = torch.cat([decoded_B, torch.tensor(cells, device=device)])
        self._biases: dict[tuple[int | None, torch.dtype], Tensor] = {}

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Two int32 tensors: [rows + 1], where each row's tokens begin in this pass and the last
        row's end; and [rows], the number of tokens that each row has in the cache after it."""
        device, decoded = self.decoded_B.device, len(self.decoded_B)
        begins = torch.arange(decoded + 1, dtype=torch.int32, device=device)
        used = self.decoded_B.to(torch.int32) + 1
        if not self.segments:
            return begins, used
        counts = torch.tensor([segment.count for segment in self.segments])
        after = (decoded + counts.cumsum(0)).to(device, torch.int32)
        held = torch.tensor([segment.end for segment in self.segments])
        return torch.cat([begins, after]), torch.cat([used, held.to(device, torch.int32)])

    def longest(self) -> tuple[int, int]:
        """The most tokens that any row has in this pass, and in the cache after it."""
        if not self.segments:
            return 1, self.reach
        return (
            max(segment.count for segment in self.segments),
            max(self.reach, *(segment.end for segment in self.segments)),
        )

    def last_of_each(self) -> Tensor:
        """[B + segments]: the index of each row's last token."""
        decoded = len(self.decoded_B)
        ends = torch.tensor([segment.count for segment in self.segments], dtype=torch.long)
        indices = torch.cat([torch.arange(decoded), decoded - 1 + ends.cumsum(0)])
        return indices.to(self.decoded_B.device)

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Additive mask of the first rows' tokens, [B, 1, reach]."""
        known = self._biases.get((window, dtype))
        if known is None:
            cells_T = torch.arange(self.reach, device=self.decoded_B.device)
            known = _bias(self.decoded_B[:, None], cells_T, window, dtype)
            self._biases[window, dtype] = known
        return known


def _bias(cells: Tensor, cells_T: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
    """[..., T]: 0 for each cell that the query in ``cells`` attends to, -inf for the others."""
    hidden = cells_T > cells[..., None]
    if window is not None:
        hidden |= cells_T <= cells[..., None] - window
    zeros = torch.zeros(hidden.shape, dtype=dtype, device=cells.device)
    return zeros.masked_fill_(hidden, -torch.inf)


def row_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    layout: BatchLayout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """Attention over a ``RowCache``, with the signature that transformers expects.

    Args:
        query: [1, heads, N, head_dim].
        key, value: [rows, key_value_heads, cells, head_dim].
        scaling: factor on the scores; None means ``head_dim ** -0.5``.
        layout: which rows the queries belong to; it takes the place of a mask.
        sliding_window: the layer's window, in tokens.
        softcap: soft bound on the scores, as in Gemma 2.
        s_aux: attention sinks; refused with a ValueError.

    Returns:
        [1, N, heads, head_dim], and None for the attention weights.
    """
    assert layout is not None, "its layers do not pass on the layout of the batch"
    assert attention_mask is None and dropout == 0.0
    if s_aux is not None:
        raise ValueError("models with attention sinks (gpt-oss) cannot be sampled from here")
    query = query.to(key.dtype)
    if softcap is None and not layout.segments and has_decode_kernel(query.device, query.dtype):
        from cleaner_rl.inference.triton_attention import decode_attention

        query_BHD, used_B = query[0].transpose(0, 1), layout.ends[1]
        out_BHD = decode_attention(
            query_BHD, key, value, used_B, layout.reach, scaling, sliding_window
        )
        return out_BHD[None], None
    if softcap is None and has_varlen(query.device, query.dtype, query.shape[-1]):
        return _in_one_call(query, key, value, layout, scaling, sliding_window), None
    pieces, begin = [], len(layout.decoded_B)
    if begin:
        of_rows = _attend(
            query[:, :, :begin].permute(2, 1, 0, 3),
            key[:begin, :, : layout.reach],
            value[:begin, :, : layout.reach],
            layout.bias(sliding_window, query.dtype),
            scaling,
            softcap,
        )
        pieces.append(of_rows.transpose(0, 1))
    for segment in layout.segments:
        row, end = slice(segment.row, segment.row + 1), begin + segment.count
        of_segment = _attend(
            query[:, :, begin:end],
            key[row, :, : segment.end],
            value[row, :, : segment.end],
            segment.bias(sliding_window, query),
            scaling,
            softcap,
        )
        pieces.append(of_segment)
        begin = end
    return torch.cat(pieces, dim=1) if len(pieces) > 1 else pieces[0], None


def has_decode_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a pass without segments uses a kernel that reads only the filled cells of rows."""
    return dtype in (torch.bfloat16, torch.float16) and has_triton(device)


def _in_one_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: BatchLayout,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """[1, N, heads, head_dim]. Only the filled cells of a row are read."""
    q_ends, used = layout.ends
    rows, cells = key.shape[0], key.shape[2]
    assert len(used) <= rows
    k_ends = cells * torch.arange(len(used) + 1, dtype=torch.int32, device=key.device)
    out_NHD = varlen(
        query[0].transpose(0, 1),
        key.transpose(1, 2).flatten(0, 1),
        value.transpose(1, 2).flatten(0, 1),
        q_ends,
        k_ends,
        layout.longest(),
        scaling,
        window,
        used,
    )
    return out_NHD[None]


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias_BNT: Tensor,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """[B, N, heads, head_dim]. Heads that share keys are treated as queries of one head, so keys
    and values are read once, in place."""
    B, heads, N, size = query.shape
    shared = heads // key.shape[1]
    query = query.reshape(B, key.shape[1], shared * N, size)
    bias = (bias_BNT if N == 1 else bias_BNT.repeat(1, shared, 1))[:, None]
    if softcap is None:
        bias = bias.expand(-1, -1, shared * N, -1)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scaling)
    else:
        scores = query @ key.transpose(-1, -2) * (size**-0.5 if scaling is None else scaling)
        out = (torch.tanh(scores / softcap) * softcap + bias).softmax(-1) @ value
    return out.reshape(B, heads, N, value.shape[-1]).transpose(1, 2)


AttentionInterface.register(ROWS, row_attention)
