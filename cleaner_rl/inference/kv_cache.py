"""KV cache: keys and values of many conversations, one row each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicLayer

from cleaner_rl.inference.attention import BatchLayout

KV = list[tuple[Tensor, Tensor]]
"""Keys and values, [heads, T, head_dim], of one conversation, for each layer."""


class RowCache(Cache):  # type: ignore[misc]
    """A cache whose rows belong to conversations of different lengths.

    Attributes:
        rows: the number of rows.
        cells: the number of tokens that a row has room for.
    """

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self.rows = 0
        self.cells = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self.aim(BatchLayout(torch.zeros(0, dtype=torch.long), 0))

    def resize(self, rows: int, cells: int) -> None:
        """Change the numbers of rows and cells; entries that still fit keep their places."""
        if (rows, cells) == (self.rows, self.cells):
            return
        self.rows, self.cells = rows, cells
        self._keys = [self._resized(stored) for stored in self._keys]
        self._values = [self._resized(stored) for stored in self._values]

    def clear(self) -> None:
        """Free all memory."""
        self._keys.clear()
        self._values.clear()
        self.rows = self.cells = 0

    def aim(self, layout: BatchLayout) -> None:
        """Set where the next forward pass writes."""
        self._layout = layout
        self._slots_N = layout.rows_N * self.cells + layout.cells_N

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values, [1, heads, N, head_dim], and return all it has now,
        [rows, heads, cells, head_dim]."""
        if layer_idx == len(self._keys):
            self._keys.append(self._new(key_states, value_states.dtype))
            self._values.append(self._new(value_states, value_states.dtype))
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        self._write(keys, key_states[0].transpose(0, 1))
        self._write(values, value_states[0].transpose(0, 1))
        return keys, values

    def _write(self, stored: Tensor, new_NHD: Tensor) -> None:
        by_cell = stored.transpose(1, 2)
        if by_cell.is_contiguous():  # on CUDA, where this is one kernel
            by_cell.flatten(0, 1).index_copy_(0, self._slots_N, new_NHD.to(stored.dtype))
        else:
            rows_N, cells_N = self._layout.rows_N, self._layout.cells_N
            by_cell[rows_N, cells_N] = new_NHD.to(stored.dtype)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The number of cells in a row."""
        return self.cells

    def take(self, row: int, length: int) -> KV:
        """Copy the first ``length`` cells of a row."""
        return [
            (keys[row, :, :length].clone(), values[row, :, :length].clone())
            for keys, values in zip(self._keys, self._values, strict=True)
        ]

    def put(self, row: int, kept: KV, length: int) -> None:
        """Fill the first ``length`` cells of a row from a copy."""
        for layer, (keys, values) in enumerate(kept):
            self._keys[layer][row, :, :length] = keys[:, :length]
            self._values[layer][row, :, :length] = values[:, :length]

    def copy(self, source: int, target: int, length: int) -> None:
        """Fill the first ``length`` cells of a row from another row."""
        for stored in (*self._keys, *self._values):
            stored[target, :, :length] = stored[source, :, :length]

    def _new(self, states: Tensor, dtype: torch.dtype, rows: int = 0, cells: int = 0) -> Tensor:
        """Cells without entries, zero but for the first ``cells`` of the first ``rows`` rows. Even
        what no query attends to has to be a number."""
        # Rotary embeddings may leave keys in float32.
        heads, size = states.shape[1], states.shape[3]
        if states.device.type != "cuda":
            new = states.new_empty((self.rows, heads, self.cells, size), dtype=dtype)
        else:
            # Flash attention needs the heads of a cell next to each other in memory.
            new = states.new_empty((self.rows, self.cells, heads, size), dtype=dtype)
            new = new.transpose(1, 2)
        new[rows:] = 0
        new[:rows, :, cells:] = 0
        return new

    def _resized(self, stored: Tensor) -> Tensor:
        rows, cells = min(self.rows, len(stored)), min(self.cells, stored.shape[2])
        new = self._new(stored, stored.dtype, rows, cells)
        new[:rows, :, :cells] = stored[:rows, :, :cells]
        return new


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """The first tokens of a conversation, with their keys and values."""

    ids: Sequence[int]
    kv: KV


class PrefixCache:
    """Cached beginnings of conversations; the least recently used are evicted first.

    Attributes:
        tokens: the number of tokens kept in all.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._items: OrderedDict[Hashable, CachedPrefix] = OrderedDict()

    def put(self, key: Hashable, cached: CachedPrefix) -> None:
        """Keep a prefix, replacing any other under the same key."""
        self.pop(key)
        self._items[key] = cached
        self.tokens += len(cached.ids)

    def get(self, key: Hashable) -> CachedPrefix | None:
        """The prefix under a key, which becomes the most recently used."""
        if key in self._items:
            self._items.move_to_end(key)
        return self._items.get(key)

    def pop(self, key: Hashable) -> None:
        """Drop the prefix under a key, if there is one."""
        cached = self._items.pop(key, None)
        if cached is not None:
            self.tokens -= len(cached.ids)

    def evict(self, tokens: int) -> None:
        """Drop prefixes until at most that many tokens are kept."""
        while self._items and self.tokens > tokens:
            self.pop(next(iter(self._items)))

    def clear(self) -> None:
        self._items.clear()
        self.tokens = 0


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    for length, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return length
    return min(len(first), len(second))
