"""Scheduler: which sequences are decoded together, which wait, and what is cached of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cleaner_rl.inference.attention import PrefillSegment
from cleaner_rl.inference.cuda_graphs import DecodeGraphs
from cleaner_rl.inference.kv_cache import CachedPrefix, PrefixCache, RowCache, common_length
from cleaner_rl.inference.sampling import SequenceRows, TokenSequence

_ADMIT_AT = 12
_ADMIT_AT_PADDED = 4
"""Sequences wait until there is one for every so many already decoding, so that one prefill pass
serves several. Where decoding passes are replayed from graphs, an empty row costs little, but a
prefill pass, which is never replayed, costs much."""
_KEPT_SHARE = 4
"""Rows that take at most this fraction (1 / 4) of the budget are kept when the weights change, so
that their graphs need not be captured again."""
_PREFILL_TOKENS = 8192
"""The most tokens in a prefill pass, unless a single sequence has more."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What remains to be computed for sequences that have just been given rows.

    Attributes:
        segments: tokens to prefill, one segment per row.
        shared: prefixes to keep for later sequences, and the rows that will hold them.
        copies: pairs of rows: one that will hold a prefix, and one that starts from a copy of it.
    """

    segments: Sequence[PrefillSegment] = ()
    shared: Mapping[tuple[int, ...], int] = field(default_factory=dict)
    copies: Sequence[tuple[int, int]] = ()


@dataclass(slots=True)
class SamplerStats:
    """What the sampler has computed since it was created.

    Attributes:
        prefilled: context tokens that were computed, not counting each context's last.
        reused: context tokens that came from the cache.
        decoded: tokens sampled.
        passes: decoding steps of the batch.
        preempted: sequences that lost their row because memory ran short.
    """

    prefilled: int = 0
    reused: int = 0
    decoded: int = 0
    passes: int = 0
    preempted: int = 0


class Scheduler:
    """Gives rows to at most ``max_running`` sequences within a budget of cached tokens, in rows and
    in the prefix cache. ``graphs`` pads shapes, and is told when tensors move.

    Attributes:
        running: sequences that have a row, in the order of the rows.
        waiting: sequences without one.
        rows: the state of the rows.
        cache: their keys and values.
        prefixes: the cached prefixes of conversations without a row.
    """

    def __init__(
        self,
        device: torch.device,
        graphs: DecodeGraphs,
        max_running: int,
        budget: int,
        poll_every: int,
    ) -> None:
        self.running: list[TokenSequence] = []
        self.waiting: deque[TokenSequence] = deque()
        self.rows = SequenceRows.empty(device)
        self.cache = RowCache()
        self.prefixes = PrefixCache()
        self.stats = SamplerStats()
        self.budget = budget
        self._device = device
        self._graphs = graphs
        self._max_running = max_running
        self._poll_every = poll_every
        self._cut_short = False
        """The last prefill pass was full; the sequences it left out do not wait for others."""

    def clear(self) -> None:
        """Forget all sequences and everything cached."""
        self.running, self.waiting, self._cut_short = [], deque(), False
        self.prefixes.clear()
        if self._graphs.padded and self._cells_in_rows() * _KEPT_SHARE <= self.budget:
            self.rows.empty_from(0)
            return
        self.rows = SequenceRows.empty(self._device)
        self.cache.clear()
        self._graphs.forget()

    def grow(self) -> None:
        """Make the rows long enough for the next tokens.

        When the budget is short, the sequences admitted last lose their rows and wait again: those
        admitted first are nearest to their end and free their rows soonest. Sampled tokens are
        kept, so a preempted turn continues where it stopped.
        """
        while self.running:
            rows, cells = self.cache.rows, self.cells(self.rows.longest)
            if cells <= self.cache.cells:
                return
            if len(self.running) > 1 and len(self.running) * cells > self.budget:
                self._preempt()
                continue
            if rows * cells > self.budget:
                rows = self._padded_rows(len(self.running), cells)
            self._resize(rows, self._roomy(rows, cells))

    def _preempt(self) -> None:
        sequence = self.running.pop()
        self.rows.read(len(self.running), sequence)
        self.waiting.appendleft(sequence)
        self.rows.empty_from(len(self.running))
        self.stats.preempted += 1

    def admit(self) -> Admission:
        """Give rows to the sequences that have waited longest, as far as the budget allows.

        All rows are as long as the longest, so a long sequence may cost more than its own cells. No
        sequence overtakes an earlier one: admission stops at the first that does not fit.
        """
        first = len(self.running)
        free = min(self._max_running - first, len(self.waiting))
        at = _ADMIT_AT_PADDED if self._graphs.padded else _ADMIT_AT
        if not free or (free * at < first and not self._cut_short):
            return Admission()
        self._cut_short = False
        if not first and not (self._graphs.padded and self._has_room(free)):
            self._resize(0, 0)  # long rows left over may leave no room for many short ones
        rows, cells = self.cache.rows, self.cache.cells
        if self._graphs.padded:  # at once, for those that the next pass admits as well
            least = max(cells, self.cells(self.waiting[0].length))
            wanted = self._padded_rows(first + free, least)
            rows = max(rows, wanted) if wanted * least <= self.budget else rows
        chosen: list[TokenSequence] = []
        prefixes: set[tuple[int, ...]] = set()
        new_tokens = 0
        while self.waiting and len(chosen) < free:
            sequence = self.waiting[0]
            wanted_cells = max(cells, self.cells(sequence.length))
            wanted_rows = max(rows, self._padded_rows(first + len(chosen) + 1, wanted_cells))
            new_tokens += self._tokens_to_prefill(sequence, prefixes)
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
        return self._give_rows(chosen)

    def cells(self, length: int) -> int:
        """Cells of a row with room for ``length`` tokens and those decoded before the next poll."""
        return _round_up(length + self._poll_every + 1, self._graphs.cell_step)

    def _padded_rows(self, count: int, cells: int) -> int:
        """Rows for ``count`` sequences, padded to common shapes where the budget allows."""
        padded = self._graphs.rows(count, self._max_running)
        return padded if padded * cells <= self.budget else count

    def _has_room(self, count: int) -> bool:
        """Whether the budget allows ``count`` rows of the present length."""
        return self._padded_rows(count, self.cache.cells) * self.cache.cells <= self.budget

    def _roomy(self, rows: int, cells: int) -> int:
        """The length that rows grow to: half their present length more than needed where the
        budget allows. Growing copies everything, and passes are captured by shape. Without graphs,
        no prefix is evicted for it, and rows are left for as many sequences again."""
        wide = _round_up(cells + self.cache.cells // 2, self._graphs.cell_step)
        wanted = rows * wide if self._graphs.padded else 2 * rows * wide + self.prefixes.tokens
        return wide if wanted <= self.budget else cells

    def _cells_in_rows(self) -> int:
        return self.cache.rows * self.cache.cells

    def _resize(self, rows: int, cells: int) -> None:
        """Change the numbers of rows and cells, evicting prefixes to make room."""
        if (rows, cells) != (self.cache.rows, self.cache.cells):
            self.prefixes.evict(self.budget - rows * cells)
            self.cache.resize(rows, cells)
            self._graphs.forget()

    def _tokens_to_prefill(self, sequence: TokenSequence, counted: set[tuple[int, ...]]) -> int:
        """How many tokens to compute for a sequence if prefixes in ``counted`` are computed."""
        prefix = tuple(sequence.context[:-1])
        cached = self.prefixes.get(sequence.request.key)
        if cached is not None:
            return sequence.length - common_length(cached.ids, prefix)
        if prefix in counted:
            return 1
        counted.add(prefix)
        return sequence.length

    def _give_rows(self, sequences: Sequence[TokenSequence]) -> Admission:
        """Give rows to sequences: first to those with tokens to prefill, then to those that copy a
        prefix from one of them."""
        leaders: dict[tuple[int, ...], TokenSequence] = {}
        leading: list[TokenSequence] = []
        following: list[tuple[TokenSequence, TokenSequence]] = []
        for sequence in sequences:
            prefix = tuple(sequence.context[:-1])
            known = self.prefixes.get(sequence.request.key) or self.prefixes.get(prefix)
            if known is None and prefix in leaders:
                following.append((leaders[prefix], sequence))
                continue
            if known is None and prefix:
                leaders[prefix] = sequence
            leading.append(sequence)
        first = len(self.running)
        segments = [self._segment(first + i, sequence) for i, sequence in enumerate(leading)]
        self.running += [*leading, *(sequence for _, sequence in following)]
        if self.rows.widen(self._max_running, max(s.request.limit for s in sequences)):
            self._graphs.forget()
        self.rows.begin(first, self.running[first:])
        rows = {id(sequence): row for row, sequence in enumerate(self.running)}
        shared = {prefix: rows[id(sequence)] for prefix, sequence in leaders.items()}
        copies = [(rows[id(leader)], rows[id(sequence)]) for leader, sequence in following]
        return Admission(segments, shared, copies)

    def _segment(self, row: int, sequence: TokenSequence) -> PrefillSegment:
        """Fill a row with the cached part of a sequence's context; return what is left to compute.

        This is where a rollback drops the cache of the turn that it removed: the new context shares
        only its beginning with the cached one, and nothing beyond that is copied.
        """
        context = sequence.context
        cached = self.prefixes.get(sequence.request.key) or self.prefixes.get(tuple(context[:-1]))
        kept = 0
        if cached is not None:
            kept = common_length(cached.ids, context[:-1])
            self.cache.put(row, cached.kv, kept)
            self.prefixes.pop(sequence.request.key)
        self.stats.reused += kept
        self.stats.prefilled += len(context) - kept - 1
        return PrefillSegment(row, kept, len(context) - kept)

    def share(self, admission: Admission) -> None:
        """Copy prefixes that have just been computed to the rows that share them."""
        for prefix, row in admission.shared.items():
            self.prefixes.put(prefix, CachedPrefix(prefix, self.cache.take(row, len(prefix))))
        for source, target in admission.copies:
            length = self.running[target].length - 1
            self.cache.copy(source, target, length)
            self.stats.reused += length
        self._keep_budget()

    def take_ended(self) -> list[TokenSequence]:
        """Remove the sequences whose turns have ended and return them in the order of their rows.
        Their keys and values move to the prefix cache, and the last rows move into the gaps."""
        ended = self.rows.over_B[: len(self.running)].nonzero().flatten().tolist()
        if not ended:
            return []
        filled = self.rows.filled_B[: len(self.running)].tolist()
        taken = []
        for row in reversed(ended):
            sequence = self.running[row]
            self.rows.read(row, sequence)
            kept = CachedPrefix(sequence.context[:-1], self.cache.take(row, filled[row]))
            self.prefixes.put(sequence.request.key, kept)
            taken.append(sequence)
            last = len(self.running) - 1
            if row != last:
                self.cache.copy(last, row, filled[last])
                self.rows.move(last, row)
                self.running[row], filled[row] = self.running[last], filled[last]
            self.running.pop()
            filled.pop()
        self.rows.empty_from(len(self.running))
        self._keep_budget()
        taken.reverse()
        return taken

    def _keep_budget(self) -> None:
        self.prefixes.evict(self.budget - self._cells_in_rows())


def _round_up(cells: int, step: int) -> int:
    """The next multiple of ``step``."""
    return -(-cells // step) * step
