"""Sampler: the policy's next turns for many conversations, decoded side by side.

A conversation asks for a turn (``submit``) and waits for a place in the batch. ``advance`` gives
free places to those that wait, decodes a token for every place, and returns the turns that have
ended; their places are free again. What was computed for a conversation lies on a shelf until its
next turn: only tokens behind the common beginning of old and new context are computed anew, be the
context longer (an observation) or another one (a rollback).

Every token but a context's last is prefilled; the last is the first that is decoded. So a prompt
that several conversations share is computed once and copied.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cleaner_env.completion import Completion
from cleaner_rl.decode_graphs import DecodeGraphs
from cleaner_rl.decoding_model import DecodingModel
from cleaner_rl.drawing import draw
from cleaner_rl.errors import PolicyError
from cleaner_rl.kv_cache import RowCache, round_up
from cleaner_rl.memory import tokens_in_memory
from cleaner_rl.places import Places, Request, Turn
from cleaner_rl.policy import Policy
from cleaner_rl.precision import Precision
from cleaner_rl.row_attention import Layout, Segment, row_attention_of
from cleaner_rl.shelf import Cached, Shelf, common_length

_ADMIT_AT = 12
"""Conversations are let in together, when they are one for so many that decode already."""
_PREFILL_TOKENS = 8192
"""Tokens of one prefill pass, or those of one conversation that has more."""
SPARE_CELLS = 1024
"""Cells that a row may have beyond a model's context, because of rounding."""


@dataclass(frozen=True, slots=True)
class _Admission:
    """Turns that have just got their rows.

    Attributes:
        segments: tokens that are to be computed, a segment a row.
        shared: beginnings that are kept for later conversations, and the rows that have them.
        copies: rows with a beginning, and rows that want it too.
    """

    segments: Sequence[Segment] = ()
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


class Sampler:
    """Continuous batching with a key-value cache that lives as long as its conversations.

    A turn's tokens depend on its context, its seed and the weights, and on the other turns of the
    batch only by rounding (see ``draw``). With the same requests in the same order and no tools in
    between they are the same to the bit.

    Args:
        policy: model, tokenizer and codec.
        temperature: the logits are divided by it; above 0.
        top_p: sample from the smallest set of tokens with at least this probability.
        max_batch: conversations decoded together.
        seed: of ``sample``.
        dtype: precision of the forward passes.
        top_k: sample from that many of the most probable tokens; 0 for all.
        cache_tokens: tokens whose keys and values are kept at a time, in the batch and on the
            shelf; 0 for what fits in a quarter of the device's memory. Where it is short, fewer
            conversations are decoded together, and those that wait lose their cache and are
            prefilled again.
        poll_every: tokens decoded between two looks at which turns have ended; 0 for one, and for
            eight on CUDA, where a look waits for the device.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        policy: Policy,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_batch: int = 128,
        seed: int = 0,
        dtype: Precision = "float32",
        *,
        top_k: int = 0,
        cache_tokens: int = 0,
        poll_every: int = 0,
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], not {top_p}")
        if top_k < 0 or cache_tokens < 0:
            raise ValueError(f"top_k ({top_k}) and cache_tokens ({cache_tokens}) must be 0 or more")
        if max_batch < 1 or poll_every < 0:
            raise ValueError(f"max_batch ({max_batch}) or poll_every ({poll_every}) is too small")
        self.policy = policy
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.max_batch = max_batch
        self.cache_tokens = cache_tokens or tokens_in_memory(
            policy.model.config, policy.device, dtype, policy.context_length + SPARE_CELLS
        )
        self.poll_every = poll_every or (8 if policy.device.type == "cuda" else 1)
        self._stops = torch.tensor(sorted(policy.codec.stop_ids), device=policy.device)
        self.stats = SamplerStats()
        self._shelf = Shelf()
        self._cache = RowCache()
        self._graphs = DecodeGraphs(policy.device)
        self._decoder = DecodingModel(policy.model, dtype)
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Restart the random stream of ``sample``, and ``reset``."""
        self._seed = seed
        self._calls = itertools.count()
        self.reset()

    def reset(self) -> None:
        """Drop all requests and everything cached: needed whenever the weights change."""
        self._waiting: deque[Turn] = deque()
        self._rows: list[Turn] = []
        self._shelf.clear()
        self._cache.clear()
        self._graphs.forget()
        self._decoder.refresh()
        self._places = Places.empty(self.policy.device)

    @property
    def clock(self) -> int:
        """Decoding steps of the batch since the sampler was made."""
        return self.stats.passes

    @property
    def busy(self) -> bool:
        """Some turn that was asked for has not ended."""
        return bool(self._waiting or self._rows)

    def submit(self, request: Request) -> None:
        """Ask for a turn.

        Raises:
            ValueError: the context is empty, or the limit below 1.
            PolicyError: both together exceed the budget.
        """
        if not request.ids or request.limit < 1:
            raise ValueError("a turn needs a context and a limit of at least one token")
        if self._cells(len(request.ids) + request.limit) > self.cache_tokens:
            raise PolicyError(
                f"a conversation of {len(request.ids)} tokens and {request.limit} to come may need "
                f"{self._cells(len(request.ids) + request.limit)} cached tokens, and the budget is "
                f"{self.cache_tokens}; raise --cache-tokens or shorten the episodes"
            )
        self._waiting.append(Turn(request))

    def forget(self, key: int) -> None:
        """Drop what is cached of a conversation that has ended."""
        self._shelf.remove(key)

    @torch.inference_mode()
    def advance(self) -> list[tuple[int, Completion]]:
        """Let waiting conversations in and decode ``poll_every`` tokens more of every turn.

        Returns:
            Key and turn of each conversation whose turn has ended, with ids and log-probabilities
            (at this temperature, before top-k and top-p); ``truncated`` where the limit came before
            the end of turn.

        Raises:
            PolicyError: the model's output is not finite.
        """
        if not self.busy:
            return []
        with row_attention_of(self._decoder.model):
            self._grow()
            decoding = len(self._rows)
            admission = self._admit()
            if admission.segments:
                self._decode(decoding, admission.segments)
                self._share(admission)
            for _ in range(self.poll_every - bool(admission.segments)):
                self._decode_rows()
        return self._finish()

    def sample(self, contexts: Sequence[Sequence[int]], limits: Sequence[int]) -> list[Completion]:
        """One turn for each of several conversations that have no other.

        Args:
            contexts: token ids that each turn continues.
            limits: most tokens that each turn may have.

        Returns:
            The turns, in order, as ``advance`` gives them.
        """
        call = next(self._calls)
        for index, (ids, limit) in enumerate(zip(contexts, limits, strict=True)):
            self.submit(Request(index, ids, limit, (self._seed, call, index)))
        turns: dict[int, Completion] = {}
        while self.busy:
            turns.update(self.advance())
        for key in turns:
            self.forget(key)
        return [turns[index] for index in range(len(contexts))]

    def _grow(self) -> None:
        """Make the rows long enough for the next tokens; where the budget ends, the turns that came
        last lose their rows and wait again."""
        while self._rows:
            rows, cells = self._cache.rows, self._cells(self._places.longest)
            if cells <= self._cache.cells:
                return
            if len(self._rows) > 1 and len(self._rows) * cells > self.cache_tokens:
                self._preempt()
                continue
            if rows * cells > self.cache_tokens:
                rows = self._graphs.rows(len(self._rows), self.max_batch)
            self._resize(rows, cells)

    def _preempt(self) -> None:
        turn = self._rows.pop()
        self._places.read(len(self._rows), turn)
        self._waiting.appendleft(turn)
        self._places.empty_from(len(self._rows))
        self.stats.preempted += 1

    def _admit(self) -> _Admission:
        """Give places to the turns that wait longest, as far as the budget goes."""
        first = len(self._rows)
        free = min(self.max_batch - first, len(self._waiting))
        if not free or free * _ADMIT_AT < first:
            return _Admission()
        if not first:
            self._resize(0, 0)  # long rows of the past may leave no room for many short ones
        chosen: list[Turn] = []
        rows, cells, new_tokens = self._cache.rows, self._cache.cells, 0
        counted: set[tuple[int, ...]] = set()
        while self._waiting and len(chosen) < free:
            turn = self._waiting[0]
            wanted_rows = max(rows, self._graphs.rows(first + len(chosen) + 1, self.max_batch))
            wanted_cells = max(cells, self._cells(turn.length))
            new_tokens += self._new_tokens(turn, counted)
            alone = not first and not chosen
            if not alone and wanted_rows * wanted_cells > self.cache_tokens:
                break
            if chosen and new_tokens > _PREFILL_TOKENS:
                break
            rows, cells = wanted_rows, wanted_cells
            chosen.append(self._waiting.popleft())
        if not chosen:
            return _Admission()
        self._resize(rows, cells)
        return self._place(chosen)

    def _cells(self, length: int) -> int:
        """Cells for a row with that many tokens and those that come before the next look."""
        return round_up(length + self.poll_every + 1, self._graphs.cell_step)

    def _resize(self, rows: int, cells: int) -> None:
        """Other numbers of rows and cells; what lay longest on the shelf makes room."""
        if (rows, cells) != (self._cache.rows, self._cache.cells):
            self._shelf.trim(self.cache_tokens - rows * cells)
            self._cache.resize(rows, cells)
            self._graphs.forget()

    def _new_tokens(self, turn: Turn, counted: set[tuple[int, ...]]) -> int:
        """Tokens that have to be computed for a turn; beginnings in ``counted`` are anyway."""
        prefix = tuple(turn.context[:-1])
        cached = self._shelf.look(turn.request.key)
        if cached is not None:
            return turn.length - common_length(cached.ids, prefix)
        if prefix in counted:
            return 1
        counted.add(prefix)
        return turn.length

    def _place(self, turns: Sequence[Turn]) -> _Admission:
        """Rows for turns: those with tokens to compute first, then those that share a beginning
        with one of them."""
        leaders: dict[tuple[int, ...], Turn] = {}
        leading: list[Turn] = []
        following: list[tuple[Turn, Turn]] = []
        for turn in turns:
            prefix = tuple(turn.context[:-1])
            known = self._shelf.look(turn.request.key) or self._shelf.look(prefix)
            if known is None and prefix in leaders:
                following.append((leaders[prefix], turn))
                continue
            if known is None and prefix:
                leaders[prefix] = turn
            leading.append(turn)
        first = len(self._rows)
        segments = [self._segment(first + i, turn) for i, turn in enumerate(leading)]
        self._rows += [*leading, *(turn for _, turn in following)]
        if self._places.widen(self.max_batch, max(turn.request.limit for turn in turns)):
            self._graphs.forget()
        self._places.begin(first, self._rows[first:])
        rows = {id(turn): row for row, turn in enumerate(self._rows)}
        shared = {prefix: rows[id(turn)] for prefix, turn in leaders.items()}
        copies = [(rows[id(leader)], rows[id(turn)]) for leader, turn in following]
        return _Admission(segments, shared, copies)

    def _segment(self, row: int, turn: Turn) -> Segment:
        """Fill a row with what is cached of a conversation; what has to be computed."""
        context = turn.context
        cached = self._shelf.look(turn.request.key) or self._shelf.look(tuple(context[:-1]))
        kept = 0
        if cached is not None:
            kept = common_length(cached.ids, context[:-1])
            self._cache.put(row, cached.kv, kept)
            self._shelf.remove(turn.request.key)
        self.stats.reused += kept
        self.stats.prefilled += len(context) - kept - 1
        return Segment(row, kept, len(context) - kept)

    def _share(self, admission: _Admission) -> None:
        """Copy what was just computed of a beginning to the rows that share it."""
        for prefix, row in admission.shared.items():
            self._shelf.lay(prefix, Cached(prefix, self._cache.take(row, len(prefix))))
        for source, target in admission.copies:
            length = self._rows[target].length - 1
            self._cache.copy(source, target, length)
            self.stats.reused += length
        self._make_room()

    def _decode_rows(self) -> None:
        """One token more for every row."""
        count, graphs = len(self._rows), self._graphs
        reach = graphs.reach(self._places.longest + 1, self._cache.cells)
        graphs.run(graphs.rows(count, self._cache.rows), reach, self._pass)
        self._tick()

    def _decode(self, decoding: int, segments: Sequence[Segment]) -> None:
        """One token more for each of the first rows, and the first one behind each segment."""
        self._pass(decoding, min(self._places.longest + 1, self._cache.cells), segments)
        self._tick()

    def _tick(self) -> None:
        self._places.longest += 1
        self.stats.passes += 1

    def _pass(self, decoding: int, reach: int, segments: Sequence[Segment] = ()) -> None:
        """Compute the last tokens of the first rows, and segments, and draw the tokens behind."""
        places, count = self._places, decoding + len(segments)
        layout = Layout(places.filled_B[:decoding], reach, segments)
        ids_N = places.last_B[:decoding]
        if segments:
            new = [i for s in segments for i in self._rows[s.row].context[s.start : s.end]]
            ids_N = torch.cat([ids_N, torch.tensor(new, device=ids_N.device)])
        self._cache.aim(layout)
        logits_BV: Tensor = self._decoder.model(
            input_ids=ids_N[None],
            position_ids=layout.cells_N[None],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=layout.last_of_each() if segments else 0,
            layout=layout,
        ).logits[0]
        numbers_B = places.numbers_BL[:count].gather(1, places.sampled_B[:count, None])[:, 0]
        ids_B, logprobs_B = draw(logits_BV, numbers_B, self.temperature, self.top_p, self.top_k)
        places.note(count, ids_B, logprobs_B, self._stops)

    def _finish(self) -> list[tuple[int, Completion]]:
        """Take the turns that have ended out of the batch; the last rows move to their places."""
        places = self._places
        ended = places.over_B[: len(self._rows)].nonzero().flatten().tolist()
        if not ended:
            return []
        filled = places.filled_B[: len(self._rows)].tolist()
        turns = []
        for row in reversed(ended):
            turn = self._rows[row]
            places.read(row, turn)
            ids = turn.context[:-1]
            self._shelf.lay(turn.request.key, Cached(ids, self._cache.take(row, filled[row])))
            turns.append((turn.request.key, self._completion(turn)))
            last = len(self._rows) - 1
            if row != last:
                self._cache.copy(last, row, filled[last])
                places.move(last, row)
                self._rows[row], filled[row] = self._rows[last], filled[last]
            self._rows.pop()
            filled.pop()
        places.empty_from(len(self._rows))
        self._make_room()
        turns.reverse()
        return turns

    def _make_room(self) -> None:
        """Drop what has lain on the shelf longest until the budget is kept."""
        self._shelf.trim(self.cache_tokens - self._cache.rows * self._cache.cells)

    def _completion(self, turn: Turn) -> Completion:
        if not all(map(math.isfinite, turn.logprobs)):
            raise PolicyError(
                f"{self.policy.name} gives probabilities that are not finite; its weights are "
                "broken, or --dtype float32 is needed (or a lower learning rate, in training)"
            )
        stopped = turn.ids[-1] in self.policy.codec.stop_ids
        self.stats.decoded += len(turn.ids)
        return Completion.from_tokens(
            turn.ids,
            turn.logprobs,
            self.policy.decode,
            stop_length=int(stopped),
            truncated=not stopped,
        )
