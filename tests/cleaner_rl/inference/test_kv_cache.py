"""The cache's rows: what cells without entries hold, and how rows grow."""

import pytest
import torch

from cleaner_rl.inference.attention import BatchLayout
from cleaner_rl.inference.cuda_graphs import DecodeGraphs
from cleaner_rl.inference.kv_cache import CachedPrefix, RowCache
from cleaner_rl.inference.scheduler import Scheduler


def test_cells_without_entries_are_numbers(monkeypatch):
    # A weight of zero times whatever memory held before may be NaN.
    monkeypatch.setattr(
        torch.Tensor,
        "new_empty",
        lambda self, size, dtype: torch.full(size, torch.nan, dtype=dtype),
    )
    cache = RowCache()
    cache.resize(2, 3)
    entries = torch.ones(1, 2, 1, 4)
    cache.aim(BatchLayout(torch.tensor([1]), 2))
    cache.update(entries, entries, 0)
    for rows, cells in ((3, 5), (1, 2), (2, 4)):
        cache.resize(rows, cells)
        expected = torch.zeros(rows, 2, cells, 4)
        expected[0, :, 1] = 1
        for stored in cache.take(0, cells)[0]:
            assert torch.equal(stored, expected[0])
        for row in range(1, rows):
            assert torch.equal(cache.take(row, cells)[0][0], expected[row])


@pytest.mark.parametrize("budget, prefix, cells", [(662, 150, 256), (600, 150, 192)])
def test_rows_grow_by_half_where_nothing_is_evicted_for_it(budget, prefix, cells):
    cpu = torch.device("cpu")
    scheduler = Scheduler(cpu, DecodeGraphs(cpu), 4, budget, 1)
    scheduler.cache.resize(1, 128)
    scheduler.running = [None]
    scheduler.rows.longest = 130
    scheduler.prefixes.put(0, CachedPrefix(range(prefix), []))
    scheduler.grow()
    assert (scheduler.cache.cells, scheduler.prefixes.tokens) == (cells, prefix)
