"""Decode kernel: attention of one query per row over the filled cells of that row, in Triton.

Rows are split into pieces of equal length, so that few long rows keep as many multiprocessors busy
as many short ones, and the results of the pieces are combined afterwards, as in Flash-Decoding (Dao
et al., 2023). Query heads that share a key head are computed together, which reads its keys once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_PIECE = 512
"""Cells of a piece."""
_LOG2_E = 1.4426950408889634


@triton.jit  # type: ignore[untyped-decorator]
def _attend_pieces(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    used,
    out,
    weight,
    query_row,
    query_head,
    row_stride,
    cell_stride,
    head_stride,
    scale,
    window,
    heads,
    pieces,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_PADDED: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, shared, piece = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    end = tl.load(used + row)
    begin = tl.maximum(end - window, 0)
    first = piece * PIECE
    last = tl.minimum(first + PIECE, end)
    g = tl.arange(0, GROUP_PADDED)
    d = tl.arange(0, SIZE_PADDED)
    mine = (g < GROUP)[:, None] & (d < SIZE)[None, :]
    head = shared * GROUP + g
    q = tl.load(
        query + row * query_row + head[:, None] * query_head + d[None, :], mask=mine, other=0.0
    )
    highest = tl.full([GROUP_PADDED], -1e30, tl.float32)
    total = tl.zeros([GROUP_PADDED], tl.float32)
    summed = tl.zeros([GROUP_PADDED, SIZE_PADDED], tl.float32)
    at = row.to(tl.int64) * row_stride + shared * head_stride
    start = tl.maximum(first, begin // BLOCK * BLOCK)
    for block in range(start, last, BLOCK):
        cells = block + tl.arange(0, BLOCK)
        seen = (cells < last) & (cells >= begin)
        places = at + cells[:, None] * cell_stride + d[None, :]
        there = seen[:, None] & (d < SIZE)[None, :]
        k = tl.load(key + places, mask=there, other=0.0)
        scores = tl.dot(q, tl.trans(k)) * scale
        scores = tl.where(seen[None, :], scores, -1e30)
        higher = tl.maximum(highest, tl.max(scores, 1))
        shrink = tl.exp2(highest - higher)
        shares = tl.exp2(scores - higher[:, None])
        v = tl.load(value + places, mask=there, other=0.0)
        summed = summed * shrink[:, None] + tl.dot(shares.to(v.dtype), v)
        total = total * shrink + tl.sum(shares, 1)
        highest = higher
    to = (row * heads + head) * pieces + piece
    tl.store(
        out + to[:, None] * SIZE + d[None, :],
        summed / tl.where(total > 0, total, 1.0)[:, None],
        mask=mine,
    )
    tl.store(weight + to, highest + tl.log2(tl.where(total > 0, total, 1e-30)), mask=g < GROUP)


@triton.jit  # type: ignore[untyped-decorator]
def _put_together(  # type: ignore[no-untyped-def]
    parts,
    weight,
    out,
    pieces,
    SIZE: tl.constexpr,
    SIZE_PADDED: tl.constexpr,
    PIECES_PADDED: tl.constexpr,
):
    head = tl.program_id(0)
    p = tl.arange(0, PIECES_PADDED)
    d = tl.arange(0, SIZE_PADDED)
    mine = (p < pieces)[:, None] & (d < SIZE)[None, :]
    weights = tl.load(weight + head * pieces + p, mask=p < pieces, other=-1e30)
    shares = tl.exp2(weights - tl.max(weights, 0))
    of_pieces = tl.load(
        parts + (head * pieces + p)[:, None] * SIZE + d[None, :], mask=mine, other=0.0
    )
    whole = tl.sum(of_pieces * shares[:, None], 0) / tl.sum(shares, 0)
    tl.store(out + head * SIZE + d, whole.to(out.dtype.element_ty), mask=d < SIZE)


def decode_attention(
    query_BHD: Tensor,
    key: Tensor,
    value: Tensor,
    used_B: Tensor,
    longest: int,
    scaling: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Attention of the last token of each row.

    Args:
        query_BHD: queries of the first rows.
        key: [rows, key_value_heads, cells, D], contiguous along D.
        value: like ``key``, with the same strides.
        used_B: int32, the filled cells of each row, the query's included; at least 1.
        longest: the largest of ``used_B``, or more.
        scaling: factor on the scores; None means ``D ** -0.5``.
        window: number of cells that a query sees, its own included; None for all.

    Returns:
        [B, H, D], in the dtype of the queries.
    """
    rows, heads, size = query_BHD.shape
    group = heads // key.shape[1]
    pieces = triton.cdiv(longest, _PIECE)
    parts = torch.empty(rows, heads, pieces, size, dtype=torch.float32, device=key.device)
    weight = torch.empty(rows, heads, pieces, dtype=torch.float32, device=key.device)
    # tl.dot accepts no size below 16.
    padded: dict[str, Any] = {"SIZE": size, "SIZE_PADDED": max(16, triton.next_power_of_2(size))}
    _attend_pieces[(rows, key.shape[1], pieces)](
        query_BHD,
        key,
        value,
        used_B,
        parts,
        weight,
        query_BHD.stride(0),
        query_BHD.stride(1),
        key.stride(0),
        key.stride(2),
        key.stride(1),
        (size**-0.5 if scaling is None else scaling) * _LOG2_E,
        2**30 if window is None else window,
        heads,
        pieces,
        GROUP=group,
        GROUP_PADDED=max(16, triton.next_power_of_2(group)),
        PIECE=_PIECE,
        BLOCK=64,
        num_warps=4,
        num_stages=3,
        **padded,
    )
    out_BHD = torch.empty(rows, heads, size, dtype=query_BHD.dtype, device=key.device)
    _put_together[(rows * heads,)](
        parts, weight, out_BHD, pieces, PIECES_PADDED=triton.next_power_of_2(pieces), **padded
    )
    return out_BHD
