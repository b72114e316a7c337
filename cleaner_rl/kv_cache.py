"""KV cache: keys and values of many conversations, a row each, and the attention over them.

A conversation lies at the beginning of its row, so a token's position is its cell. Rows are as
long as the longest one needs; what lies behind a conversation's last token is never attended to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, DynamicLayer

ROWS = "cleaner_rows"
"""Name under which transformers finds ``row_attention``. No mask function is registered for it, so
transformers builds no mask: the positions of the queries say what they may attend to."""

_CELL_STEP = 64
"""Rows grow by multiples of this many cells."""

KV = list[tuple[Tensor, Tensor]]
"""Keys and values [heads, T, head_dim] of one conversation, for each layer."""


class RowCache(Cache):  # type: ignore[misc]
    """A cache whose rows belong to conversations of different lengths.

    Attributes:
        rows: how many there are.
        cells: tokens that a row has room for.
    """

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self.rows = 0
        self.cells = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._read: Tensor | slice = slice(0)
        self._rows_B1 = self._positions_BN = torch.zeros(0, 0, dtype=torch.long)
        self._reach = 0

    def resize(self, rows: int, cells: int) -> None:
        """Make room for at least that many rows and cells; nothing that is kept moves."""
        if rows <= self.rows and cells <= self.cells:
            return
        self.rows, self.cells = max(rows, self.rows), max(round_up(cells), self.cells)
        for layer in range(len(self._keys)):
            self._keys[layer] = self._grown(self._keys[layer])
            self._values[layer] = self._grown(self._values[layer])

    def clear(self) -> None:
        """Give all memory back."""
        self._keys.clear()
        self._values.clear()
        self.rows = self.cells = 0

    def aim(self, rows: Tensor | int, positions_BN: Tensor, reach: int) -> None:
        """Say where the next forward pass writes, and how far it reads.

        Args:
            rows: [B] the rows, or how many of the first ones.
            positions_BN: the cell of each token.
            reach: cells that are read; more than any position.
        """
        self._read = slice(rows) if isinstance(rows, int) else rows
        first = torch.arange(rows, device=positions_BN.device) if isinstance(rows, int) else rows
        self._rows_B1 = first[:, None]
        self._positions_BN = positions_BN
        self._reach = reach

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values [B, heads, N, head_dim]; all that these rows have."""
        if layer_idx == len(self._keys):
            self._keys.append(self._new(key_states))
            self._values.append(self._new(value_states))
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys[self._rows_B1, :, self._positions_BN] = key_states.transpose(1, 2)
        values[self._rows_B1, :, self._positions_BN] = value_states.transpose(1, 2)
        return keys[:, :, : self._reach][self._read], values[:, :, : self._reach][self._read]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Cells that the next forward pass reads."""
        return self._reach

    def take(self, row: int, length: int) -> KV:
        """A copy of the first cells of a row."""
        return [
            (keys[row, :, :length].clone(), values[row, :, :length].clone())
            for keys, values in zip(self._keys, self._values, strict=True)
        ]

    def put(self, row: int, kept: KV, length: int) -> None:
        """Fill the first cells of a row from a copy."""
        for layer, (keys, values) in enumerate(kept):
            self._keys[layer][row, :, :length] = keys[:, :length]
            self._values[layer][row, :, :length] = values[:, :length]

    def copy(self, source: int, target: int, length: int) -> None:
        """Fill the first cells of a row from another row."""
        for stored in (*self._keys, *self._values):
            stored[target, :, :length] = stored[source, :, :length]

    def _new(self, states: Tensor) -> Tensor:
        return states.new_zeros(self.rows, states.shape[1], self.cells, states.shape[3])

    def _grown(self, stored: Tensor) -> Tensor:
        new = stored.new_zeros(self.rows, stored.shape[1], self.cells, stored.shape[3])
        new[: stored.shape[0], :, : stored.shape[2]] = stored
        return new


def round_up(cells: int) -> int:
    """The cells that a row gets when it needs that many."""
    return -(-cells // _CELL_STEP) * _CELL_STEP


def row_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    visible_BNT: Tensor | None = None,
    positions_BN: Tensor | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """Attention over a ``RowCache``, in transformers' attention interface.

    Args:
        module: the attention layer (unused).
        query: [B, heads, N, head_dim].
        key: [B, key_value_heads, T, head_dim].
        value: as ``key``.
        attention_mask: must be None; the positions say it all.
        scaling: of the scores; ``head_dim ** -0.5`` when None.
        dropout: must be 0.
        visible_BNT: cells that each query may attend to, without a window.
        positions_BN: the cell of each query.
        sliding_window: of the layer, in tokens.
        softcap: bound that the scores are pressed under, as in Gemma 2.
        s_aux: attention sinks; not supported.
        _unused: what transformers passes to every attention function.

    Returns:
        [B, N, heads, head_dim], and None for the attention weights.

    Raises:
        ValueError: the layer has attention sinks.
    """
    assert visible_BNT is not None and positions_BN is not None, "the sampler's own attention"
    assert attention_mask is None and dropout == 0.0
    if s_aux is not None:
        raise ValueError("models with attention sinks (gpt-oss) cannot be sampled from here")
    if sliding_window is not None and sliding_window < key.shape[2]:
        cells_T = torch.arange(key.shape[2], device=key.device)
        visible_BNT = visible_BNT & (cells_T > positions_BN[..., None] - sliding_window)
    if torch.is_autocast_enabled(query.device.type):
        # Rotary embeddings leave queries and keys in float32; the kernels want one dtype.
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if softcap is None and query.device.type != "cpu":
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=visible_BNT[:, None],
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return out.transpose(1, 2), None
    return _by_products(query, key, value, visible_BNT, scaling, softcap), None


def _by_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible_BNT: Tensor,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """Two batched products that read keys and values where they lie: one query a row is too little
    work for a fused kernel on a CPU."""
    B, heads, N, size = query.shape
    shared = heads // key.shape[1]
    query_BHGD = query.reshape(B, key.shape[1], shared * N, size)
    scores = query_BHGD @ key.transpose(-1, -2) * (size**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    hidden = ~visible_BNT if N == 1 else ~visible_BNT.repeat(1, shared, 1)
    weights = scores.masked_fill_(hidden[:, None], float("-inf")).softmax(-1)
    return (weights @ value).view(B, heads, N, value.shape[-1]).transpose(1, 2)


@contextmanager
def row_attention_of(model: Any) -> Iterator[None]:
    """A block in which the model attends through ``row_attention``."""
    before = model.config._attn_implementation
    model.set_attn_implementation(ROWS)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


AttentionInterface.register(ROWS, row_attention)
