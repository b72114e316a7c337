"""Scheduler: which turns are decoded side by side, which wait, and what is cached of both."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cleaner_rl.inference.attention import PrefillSegment
from cleaner_rl.inference.cuda_graphs import DecodeGraphs
from cleaner_rl.inference.kv_cache import (
    CachedPrefix,
    PrefixCache,
    RowCache,
    common_length,
    round_up,
)
from cleaner_rl.inference.sequences import SequenceRows, TokenSequence

_ADMIT_AT = 12
_ADMIT_AT_PADDED = 4
"""Turns are let in together, when they are one for so many that decode already. Where passes are
replayed, an empty place costs little, and the pass that lets turns in, which is not, much."""
_KEPT_SHARE = 4
"""Rows that take no more than that part of the budget outlast a change of the weights, where their
graphs would have to be captured again."""
_PREFILL_TOKENS = 8192
"""Tokens of one prefill pass, or those of one conversation that has more."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Turns that have just got their rows.

    Attributes:
        segments: tokens that are to be computed, a segment a row.
        shared: beginnings that are kept for later conversations, and the rows that have them.
        copies: rows with a beginning, and rows that want it too.
    """

    segments: Sequence[PrefillSegment] = ()
    shared: Mapping[tuple[int, ...], int] = field(default_factory=dict)
    copies: Sequence[tuple[int, int]] = ()


@dataclass(slots=True)
class SamplerStats:
    """What the sampler has computed since it was made.

    Attributes:
        prefilled: tokens of contexts that were computed, each turn's last aside.
        reused: tokens of contexts that were cached.
        decoded: tokens that were sampled.
        passes: decoding steps of the batch.
        preempted: turns that lost their row for want of room.
    """

    prefilled: int = 0
    reused: int = 0
    decoded: int = 0
    passes: int = 0
    preempted: int = 0


class Scheduler:
    """Gives rows to turns as far as a budget of cached tokens goes.

    Args:
        device: of the cache.
        graphs: pads shapes, and has to know when tensors move.
        max_turns: decoded together.
        budget: tokens that are cached at a time, in rows and in the prefix cache.
        poll_every: tokens decoded between two looks at which turns have ended.

    Attributes:
        turns: that have a row each, in the order of the rows.
        waiting: turns without one.
        sequences: the state of the rows.
        cache: their keys and values.
        prefixes: what is cached of conversations without a row.
        stats: what was computed.
    """

    def __init__(
        self,
        device: torch.device,
        graphs: DecodeGraphs,
        max_turns: int,
        budget: int,
        poll_every: int,
    ) -> None:
        self.running: list[TokenSequence] = []
        self.waiting: deque[TokenSequence] = deque()
        self.sequences = SequenceRows.empty(device)
        self.cache = RowCache()
        self.prefixes = PrefixCache()
        self.stats = SamplerStats()
        self.budget = budget
        self._device = device
        self._graphs = graphs
        self._max_turns = max_turns
        self._poll_every = poll_every
        self._cut_short = False
        """The last admission left turns for the next, which has not to wait for more of them."""

    def clear(self) -> None:
        """Forget all turns and everything cached."""
        self.running, self.waiting, self._cut_short = [], deque(), False
        self.prefixes.clear()
        if self._graphs.padded and self._taken() * _KEPT_SHARE <= self.budget:
            self.sequences.empty_from(0)
            return
        self.sequences = SequenceRows.empty(self._device)
        self.cache.clear()
        self._graphs.forget()

    def grow(self) -> None:
        """Make the rows long enough for the next tokens; where the budget ends, the turns that came
        last lose their rows and wait again."""
        while self.running:
            rows, cells = self.cache.rows, self.cells(self.sequences.longest)
            if cells <= self.cache.cells:
                return
            if len(self.running) > 1 and len(self.running) * cells > self.budget:
                self._preempt()
                continue
            if rows * cells > self.budget:
                rows = self._rows(len(self.running), cells)
            self._resize(rows, self._roomy(rows, cells))

    def _preempt(self) -> None:
        turn = self.running.pop()
        self.sequences.read(len(self.running), turn)
        self.waiting.appendleft(turn)
        self.sequences.empty_from(len(self.running))
        self.stats.preempted += 1

    def admit(self) -> Admission:
        """Give rows to the turns that wait longest, as far as the budget goes."""
        first = len(self.running)
        free = min(self._max_turns - first, len(self.waiting))
        at = _ADMIT_AT_PADDED if self._graphs.padded else _ADMIT_AT
        if not free or (free * at < first and not self._cut_short):
            return Admission()
        self._cut_short = False
        if not first and not (self._graphs.padded and self._has_room(free)):
            self._resize(0, 0)  # long rows of the past may leave no room for many short ones
        chosen: list[TokenSequence] = []
        rows, cells, new_tokens = self.cache.rows, self.cache.cells, 0
        if self._graphs.padded:  # at once, also for those that the next pass lets in
            least = max(cells, self.cells(self.waiting[0].length))
            wanted = self._rows(first + free, least)
            rows = max(rows, wanted) if wanted * least <= self.budget else rows
        counted: set[tuple[int, ...]] = set()
        while self.waiting and len(chosen) < free:
            turn = self.waiting[0]
            wanted_cells = max(cells, self.cells(turn.length))
            wanted_rows = max(rows, self._rows(first + len(chosen) + 1, wanted_cells))
            new_tokens += self._new_tokens(turn, counted)
            alone = not first and not chosen
            if not alone and wanted_rows * wanted_cells > self.budget:
                break
            if chosen and new_tokens > _PREFILL_TOKENS:
                self._cut_short = True
                break
            rows, cells = wanted_rows, wanted_cells
            chosen.append(self.waiting.popleft())
        if not chosen:
            return Admission()
        self._resize(rows, cells if cells == self.cache.cells else self._roomy(rows, cells))
        return self._place(chosen)

    def cells(self, length: int) -> int:
        """Cells for a row with that many tokens and those that come before the next look."""
        return round_up(length + self._poll_every + 1, self._graphs.cell_step)

    def _rows(self, count: int, cells: int) -> int:
        """Rows for so many turns: padded for common shapes, where the budget has room for it."""
        padded = self._graphs.rows(count, self._max_turns)
        return padded if padded * cells <= self.budget else count

    def _has_room(self, turns: int) -> bool:
        """The budget has room for so many rows that are as long as those that there are."""
        return self._rows(turns, self.cache.cells) * self.cache.cells <= self.budget

    def _roomy(self, rows: int, cells: int) -> int:
        """Cells that rows grow to: half as many again where passes are captured by their shape and
        the budget has room for them."""
        wide = round_up(cells + self.cache.cells // 2, self._graphs.cell_step)
        return wide if self._graphs.padded and rows * wide <= self.budget else cells

    def _taken(self) -> int:
        return self.cache.rows * self.cache.cells

    def _resize(self, rows: int, cells: int) -> None:
        """Other numbers of rows and cells; what lay longest in the prefix cache makes room."""
        if (rows, cells) != (self.cache.rows, self.cache.cells):
            self.prefixes.evict(self.budget - rows * cells)
            self.cache.resize(rows, cells)
            self._graphs.forget()

    def _new_tokens(self, turn: TokenSequence, counted: set[tuple[int, ...]]) -> int:
        """Tokens that have to be computed for a turn; beginnings in ``counted`` are anyway."""
        prefix = tuple(turn.context[:-1])
        cached = self.prefixes.get(turn.request.key)
        if cached is not None:
            return turn.length - common_length(cached.ids, prefix)
        if prefix in counted:
            return 1
        counted.add(prefix)
        return turn.length

    def _place(self, turns: Sequence[TokenSequence]) -> Admission:
        """Rows for turns: those with tokens to compute first, then those that share a beginning
        with one of them."""
        leaders: dict[tuple[int, ...], TokenSequence] = {}
        leading: list[TokenSequence] = []
        following: list[tuple[TokenSequence, TokenSequence]] = []
        for turn in turns:
            prefix = tuple(turn.context[:-1])
            known = self.prefixes.get(turn.request.key) or self.prefixes.get(prefix)
            if known is None and prefix in leaders:
                following.append((leaders[prefix], turn))
                continue
            if known is None and prefix:
                leaders[prefix] = turn
            leading.append(turn)
        first = len(self.running)
        segments = [self._segment(first + i, turn) for i, turn in enumerate(leading)]
        self.running += [*leading, *(turn for _, turn in following)]
        if self.sequences.widen(self._max_turns, max(turn.request.limit for turn in turns)):
            self._graphs.forget()
        self.sequences.begin(first, self.running[first:])
        rows = {id(turn): row for row, turn in enumerate(self.running)}
        shared = {prefix: rows[id(turn)] for prefix, turn in leaders.items()}
        copies = [(rows[id(leader)], rows[id(turn)]) for leader, turn in following]
        return Admission(segments, shared, copies)

    def _segment(self, row: int, turn: TokenSequence) -> PrefillSegment:
        """Fill a row with what is cached of a conversation; what has to be computed."""
        context = turn.context
        cached = self.prefixes.get(turn.request.key) or self.prefixes.get(tuple(context[:-1]))
        kept = 0
        if cached is not None:
            kept = common_length(cached.ids, context[:-1])
            self.cache.put(row, cached.kv, kept)
            self.prefixes.pop(turn.request.key)
        self.stats.reused += kept
        self.stats.prefilled += len(context) - kept - 1
        return PrefillSegment(row, kept, len(context) - kept)

    def share(self, admission: Admission) -> None:
        """Copy what was just computed of a beginning to the rows that share it."""
        for prefix, row in admission.shared.items():
            self.prefixes.put(prefix, CachedPrefix(prefix, self.cache.take(row, len(prefix))))
        for source, target in admission.copies:
            length = self.running[target].length - 1
            self.cache.copy(source, target, length)
            self.stats.reused += length
        self._make_room()

    def take_ended(self) -> list[TokenSequence]:
        """Take the turns that have ended out of the batch, in the order of their rows; the last
        rows move into the gaps."""
        sequences = self.sequences
        ended = sequences.over_B[: len(self.running)].nonzero().flatten().tolist()
        if not ended:
            return []
        filled = sequences.filled_B[: len(self.running)].tolist()
        taken = []
        for row in reversed(ended):
            turn = self.running[row]
            sequences.read(row, turn)
            ids = turn.context[:-1]
            self.prefixes.put(
                turn.request.key, CachedPrefix(ids, self.cache.take(row, filled[row]))
            )
            taken.append(turn)
            last = len(self.running) - 1
            if row != last:
                self.cache.copy(last, row, filled[last])
                sequences.move(last, row)
                self.running[row], filled[row] = self.running[last], filled[last]
            self.running.pop()
            filled.pop()
        sequences.empty_from(len(self.running))
        self._make_room()
        taken.reverse()
        return taken

    def _make_room(self) -> None:
        """Drop what has lain in the prefix cache longest until the budget is kept."""
        self.prefixes.evict(self.budget - self._taken())
