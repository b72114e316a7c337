"""Decode graphs: CUDA graphs of decoding passes, by their shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_ROW_STEP = 16
_CELL_STEP = 256
"""Passes are padded to multiples of so many rows and cells, so that few graphs serve them all."""


class DecodeGraphs:
    """Replays decoding passes without the cost of launching their kernels one by one.

    A shape's first pass is run as it is, its second is captured, and from then on it is replayed.
    Without CUDA every pass is run as it is, and nothing is padded.

    Args:
        device: of the passes.

    Attributes:
        padded: passes are padded to common shapes.
    """

    def __init__(self, device: torch.device) -> None:
        self.padded = device.type == "cuda"
        self._captures = device.type == "cuda"
        self._seen: set[tuple[int, int]] = set()
        self._graphs: dict[tuple[int, int], Any] = {}
        self._pool: Any = None

    @property
    def cell_step(self) -> int:
        """Rows of the cache have a multiple of so many cells."""
        return _CELL_STEP if self.padded else _CELL_STEP // 4

    def forget(self) -> None:
        """Some tensor that passes read or write has moved."""
        self._seen.clear()
        self._graphs.clear()
        self._pool = None

    def rows(self, count: int, most: int) -> int:
        """Rows of a pass over the first ``count`` of at most ``most`` rows."""
        return min(most, -(-count // _ROW_STEP) * _ROW_STEP) if self.padded else count

    def reach(self, needed: int, most: int) -> int:
        """Cells of a pass that needs so many of at most ``most``."""
        return min(most, -(-needed // _CELL_STEP) * _CELL_STEP) if self.padded else needed

    def run(self, rows: int, reach: int, decode: Callable[[int, int], None]) -> None:
        """Do a pass of that shape."""
        shape = (rows, reach)
        if not self._captures or shape not in self._seen:
            self._seen.add(shape)
            decode(rows, reach)
            return
        if shape not in self._graphs:
            # One pass ends before the next begins, so all graphs can compute in the same memory.
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                decode(rows, reach)
            self._graphs[shape] = graph
        self._graphs[shape].replay()
