"""Decode graphs: one CUDA graph for each shape of decoding pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_ROW_STEP = 16
_CELL_STEP = 256
"""Rows and cells of a pass are padded to multiples of these, so that a few graphs serve all."""


class DecodeGraphs:
    """Replays decoding passes without the cost of launching their kernels one by one.

    The first pass of a shape runs directly, the second is captured, and later ones are replayed.
    Without CUDA every pass runs directly, and nothing is padded.

    Attributes:
        padded: whether passes are padded to common shapes.
    """

    def __init__(self, device: torch.device) -> None:
        self.padded = device.type == "cuda"
        self._captures = device.type == "cuda"
        self._seen: set[tuple[int, int]] = set()
        self._graphs: dict[tuple[int, int], Any] = {}
        self._pool: Any = None

    @property
    def cell_step(self) -> int:
        """The number of cells in a row of the cache is a multiple of this."""
        return _CELL_STEP if self.padded else _CELL_STEP // 4

    def forget(self) -> None:
        """Drop all graphs, because a tensor that passes read or write has moved."""
        self._seen.clear()
        self._graphs.clear()
        self._pool = None

    def rows(self, count: int, most: int) -> int:
        """How many rows a pass over ``count`` rows computes, at most ``most``."""
        return min(most, -(-count // _ROW_STEP) * _ROW_STEP) if self.padded else count

    def reach(self, needed: int, most: int) -> int:
        """How many cells a pass that needs ``needed`` reads, at most ``most``."""
        return min(most, -(-needed // _CELL_STEP) * _CELL_STEP) if self.padded else needed

    def run(self, rows: int, reach: int, decode: Callable[[int, int], None]) -> None:
        """Run a pass of that shape."""
        shape = (rows, reach)
        if not self._captures or shape not in self._seen:
            self._seen.add(shape)
            decode(rows, reach)
            return
        if shape not in self._graphs:
            # One pass ends before the next begins, so all graphs can share their memory.
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                decode(rows, reach)
            self._graphs[shape] = graph
        self._graphs[shape].replay()
