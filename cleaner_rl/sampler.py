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
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cleaner_env.completion import Completion
from cleaner_rl.drawing import draw
from cleaner_rl.errors import PolicyError
from cleaner_rl.kv_cache import RowCache, round_up, row_attention_of
from cleaner_rl.places import Places, Request
from cleaner_rl.policy import Policy
from cleaner_rl.precision import Precision, autocast
from cleaner_rl.shelf import Cached, Shelf, common_length

_ADMIT_AT = 12
"""Conversations are let in together, when they are one for so many that decode already."""
_PREFILL_TOKENS = 8192
"""Tokens of one prefill pass, padding included."""
_MEMORY_SHARE = 0.25
"""Share of the device's memory that cached tokens may take when no budget is given."""


@dataclass(slots=True)
class SamplerStats:
    """What the sampler has computed since ``reset``.

    Attributes:
        prefilled: tokens of contexts that were computed, each turn's last aside.
        reused: tokens of contexts that were cached.
        decoded: tokens that were sampled.
        passes: decoding steps of the batch.
        preempted: conversations whose cache was dropped for want of room.
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
        poll_every: tokens decoded between two looks at which turns have ended.

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
        poll_every: int = 1,
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], not {top_p}")
        if top_k < 0 or cache_tokens < 0:
            raise ValueError(f"top_k ({top_k}) and cache_tokens ({cache_tokens}) must be 0 or more")
        if max_batch < 1 or poll_every < 1:
            raise ValueError(
                f"max_batch ({max_batch}) and poll_every ({poll_every}) must be at least 1"
            )
        self.policy = policy
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.max_batch = max_batch
        self.dtype = dtype
        self.cache_tokens = cache_tokens or tokens_in_memory(policy)
        self.poll_every = poll_every
        self._stops = torch.tensor(sorted(policy.codec.stop_ids), device=policy.device)
        self._shelf = Shelf()
        self._cache = RowCache()
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Restart the random stream of ``sample``, and ``reset``."""
        self._seed = seed
        self._calls = itertools.count()
        self.reset()

    def reset(self) -> None:
        """Drop all requests and everything cached: needed whenever the weights change."""
        self.stats = SamplerStats()
        self._waiting: deque[Request] = deque()
        self._rows: list[Request] = []
        self._shelf.clear()
        self._cache.clear()
        self._places = Places.empty(self.policy.device)

    @property
    def busy(self) -> bool:
        """Some turn that was asked for has not ended."""
        return bool(self._waiting or self._rows)

    def submit(self, request: Request) -> None:
        """Ask for a turn.

        Raises:
            ValueError: the context is empty, the limit below 1, or both together exceed the budget.
        """
        if not request.ids or request.limit < 1:
            raise ValueError("a turn needs a context and a limit of at least one token")
        if _cells(request) > self.cache_tokens:
            raise ValueError(
                f"a conversation of {len(request.ids)} tokens and {request.limit} to come needs "
                f"{_cells(request)} cached tokens, and the budget is {self.cache_tokens}; raise "
                "cache_tokens or shorten the episodes"
            )
        self._waiting.append(request)

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
        with autocast(self.policy.device, self.dtype), row_attention_of(self.policy.model):
            free = min(self.max_batch - len(self._rows), len(self._waiting))
            if free and free * _ADMIT_AT >= len(self._rows):
                self._admit(free)
            for _ in range(self.poll_every):
                self._decode()
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

    def _admit(self, most: int) -> None:
        """Give places to the conversations that wait longest, as far as the budget goes."""
        if not self._rows and self._cache.rows * self._cache.cells > self.cache_tokens // 2:
            self._cache.clear()  # long rows of the past may leave no room for many short ones
        first, cells = len(self._rows), self._cache.cells
        while self._waiting and len(self._rows) < first + most:
            cells = max(cells, _cells(self._waiting[0]))
            if max(self._cache.rows, len(self._rows) + 1) * cells > self.cache_tokens:
                break
            self._rows.append(self._waiting.popleft())
        if len(self._rows) == first:
            if not self._rows:
                self._cache.clear()
                self._admit(1)
            return
        self._cache.resize(len(self._rows), cells)
        self._make_room()
        self._fill(range(first, len(self._rows)))
        self._places.begin(first, self._rows[first:], self.max_batch)

    def _fill(self, rows: range) -> None:
        """Bring all tokens but the last of each row's context into the cache."""
        leaders: dict[tuple[int, ...], int] = {}
        followers: list[tuple[int, int]] = []
        prefills: list[tuple[int, int]] = []
        for row in rows:
            request = self._rows[row]
            prefix = tuple(request.ids[:-1])
            cached = self._shelf.look(request.key) or self._shelf.look(prefix)
            if cached is None and prefix in leaders:
                followers.append((leaders[prefix], row))
                self.stats.reused += len(prefix)
                continue
            kept = 0 if cached is None else common_length(cached.ids, prefix)
            if cached is None:
                leaders[prefix] = row
            else:
                self._cache.put(row, cached.kv, kept)
                self._shelf.remove(request.key)
            self.stats.reused += kept
            if kept < len(prefix):
                prefills.append((row, kept))
        self._prefill(prefills)
        for prefix, row in leaders.items():
            if prefix:
                self._shelf.lay(prefix, Cached(prefix, self._cache.take(row, len(prefix))))
        for leader, row in followers:
            self._cache.copy(leader, row, len(self._rows[row].ids) - 1)
        self._make_room()

    def _prefill(self, rows: list[tuple[int, int]]) -> None:
        """Compute the tokens behind the cached ones; ``rows`` has row and cached length."""
        rows = sorted(rows, key=lambda item: len(self._rows[item[0]].ids) - item[1])
        while rows:
            longest = len(self._rows[rows[-1][0]].ids) - 1 - rows[-1][1]
            count = max(1, _PREFILL_TOKENS // longest)
            rows, piece = rows[:-count], rows[-count:]
            ids = torch.zeros(len(piece), longest, dtype=torch.long)
            for i, (row, kept) in enumerate(piece):
                new = self._rows[row].ids[kept:-1]
                ids[i, : len(new)] = torch.tensor(new)
                self.stats.prefilled += len(new)
            kept_B1 = torch.tensor([[kept] for _, kept in piece])
            # Padding ends up in cells that are overwritten before anything attends to them.
            positions_BN = (kept_B1 + torch.arange(longest)).clamp_(max=self._cache.cells - 1)
            reach = max(len(self._rows[row].ids) - 1 for row, _ in piece)
            self._forward(torch.tensor([row for row, _ in piece]), ids, positions_BN, reach)

    def _forward(
        self, rows: Tensor | int, ids_BN: Tensor, positions_BN: Tensor, reach: int
    ) -> Tensor:
        """Logits behind the last token of each row; keys and values go into the cache."""
        device = self.policy.device
        positions_BN = positions_BN.to(device)
        self._cache.aim(rows if isinstance(rows, int) else rows.to(device), positions_BN, reach)
        logits: Tensor = self.policy.model(
            input_ids=ids_BN.to(device),
            position_ids=positions_BN,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            positions_BN=positions_BN,
            visible_BNT=torch.arange(reach, device=device) <= positions_BN[..., None],
        ).logits[:, -1]
        return logits

    def _decode(self) -> None:
        """One token more for every row whose turn has not ended."""
        places, count = self._places, len(self._rows)
        places.longest += 1
        logits_BV = self._forward(
            count,
            places.last_B[:count, None],
            places.filled_B[:count, None],
            min(places.longest, self._cache.cells),
        )
        numbers_B = places.numbers_BL[:count].gather(1, places.sampled_B[:count, None])[:, 0]
        ids_B, logprobs_B = draw(logits_BV, numbers_B, self.temperature, self.top_p, self.top_k)
        places.note(count, ids_B, logprobs_B, self._stops)
        self.stats.passes += 1

    def _finish(self) -> list[tuple[int, Completion]]:
        """Take the turns that have ended out of the batch; the last rows move to their places."""
        places = self._places
        ended = places.over_B[: len(self._rows)].nonzero().flatten().tolist()
        if not ended:
            return []
        filled = places.filled_B[: len(self._rows)].tolist()
        turns = []
        for row in reversed(ended):
            request = self._rows[row]
            turn = self._completion(*places.turn(row))
            ids = [*request.ids, *(turn.tokens.ids[:-1] if turn.tokens is not None else ())]
            self._shelf.lay(request.key, Cached(ids, self._cache.take(row, filled[row])))
            turns.append((request.key, turn))
            last = len(self._rows) - 1
            if row != last:
                self._cache.copy(last, row, filled[last])
                places.move(last, row)
                self._rows[row], filled[row] = self._rows[last], filled[last]
            self._rows.pop()
            filled.pop()
        places.longest = max(filled, default=0)
        self._make_room()
        turns.reverse()
        return turns

    def _make_room(self) -> None:
        """Drop what has lain on the shelf longest until the budget is kept."""
        self._shelf.trim(self.cache_tokens - self._cache.rows * self._cache.cells)
        self.stats.preempted = self._shelf.dropped

    def _completion(self, ids: list[int], logprobs: list[float]) -> Completion:
        if not all(map(math.isfinite, logprobs)):
            raise PolicyError(
                f"{self.policy.name} gives probabilities that are not finite; its weights are "
                "broken, or --dtype float32 is needed (or a lower learning rate, in training)"
            )
        stopped = ids[-1] in self.policy.codec.stop_ids
        self.stats.decoded += len(ids)
        return Completion.from_tokens(
            ids, logprobs, self.policy.decode, stop_length=int(stopped), truncated=not stopped
        )


def tokens_in_memory(policy: Policy) -> int:
    """Tokens whose keys and values fit in a quarter of the device's memory, at four bytes each; at
    least one whole context."""
    text = policy.model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if policy.device.type == "cuda":
        memory = torch.cuda.mem_get_info(policy.device)[1]
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    tokens: int = int(_MEMORY_SHARE * memory) // (2 * text.num_hidden_layers * heads * size * 4)
    least: int = round_up(policy.context_length + 1)
    return max(tokens, least)


def _cells(request: Request) -> int:
    """Cells that a conversation may need by the end of its turn."""
    return round_up(len(request.ids) + request.limit)
