"""Sampler: the policy's next turns for many conversations, decoded together.

A conversation asks for a turn (``submit``) and waits for a row of the batch. ``advance`` gives free
rows to waiting conversations, decodes tokens for every row, and returns the turns that have ended,
whose rows become free. The prefix cache keeps what was computed for a conversation until its next
turn. Then only the tokens after the common prefix of the old and the new context are computed,
whether the context grew (an observation) or was replaced (a rollback).

All tokens of a context but the last are prefilled; the last is computed in the first decoding step.
So a prompt that several conversations share is computed once and copied.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cleaner_env.completion import Completion
from cleaner_rl.distributed.fsdp import copy_weights, sharing_copy, whole_copy
from cleaner_rl.errors import PolicyError
from cleaner_rl.inference.attention import ROWS, BatchLayout, PrefillSegment, has_decode_kernel
from cleaner_rl.inference.cuda_graphs import DecodeGraphs
from cleaner_rl.inference.onednn import onednn_is_faster, use_onednn
from cleaner_rl.inference.sampling import Request, TokenSequence, sample_tokens
from cleaner_rl.inference.scheduler import SamplerStats, Scheduler
from cleaner_rl.models.memory import tokens_in_memory
from cleaner_rl.models.policy import Policy
from cleaner_rl.settings import Precision

SPARE_CELLS = 1024
"""Cells by which rounding may make a row longer than the model's context."""


class Sampler:
    """Continuous batching with a key-value cache that lives as long as its conversations.

    A turn's tokens depend on its context, its seed and the weights; the other turns of the batch
    affect them only through rounding (see ``sample_tokens``). The same requests in the same order,
    with no tools in between, give the same tokens to the bit.

    Args:
        policy: model, tokenizer and codec.
        temperature: divisor of the logits, above 0.
        top_p: sample from the smallest set of tokens with at least this probability.
        max_batch: the most conversations decoded together.
        seed: seed of ``sample``.
        dtype: precision of the forward passes.
        top_k: sample from this many of the most probable tokens; 0 for all.
        cache_tokens: the most tokens cached at a time, in the batch and in the prefix cache; 0 for
            a quarter of the device's memory. If it is short, fewer conversations are decoded
            together, and waiting ones are prefilled again.
        poll_every: tokens decoded between two checks for ended turns; 0 for one, or for eight on
            CUDA, where a check waits for the device.

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
        self._graphs = DecodeGraphs(policy.device)
        self._scheduler = Scheduler(
            policy.device, self._graphs, max_batch, self.cache_tokens, self.poll_every
        )
        self._decoder = DecodingModel(policy.model, dtype)
        self._reads_what_is_held = has_decode_kernel(policy.device, getattr(torch, dtype))
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Restart the random stream of ``sample``, and call ``reset``."""
        self._seed = seed
        self._calls = itertools.count()
        self.reset()

    def reset(self) -> None:
        """Drop all requests and everything cached, as every change of the weights requires."""
        with torch.inference_mode():
            self._scheduler.clear()
        self._decoder.refresh()

    @property
    def stats(self) -> SamplerStats:
        """Counts of what the sampler has computed since it was created."""
        return self._scheduler.stats

    @property
    def clock(self) -> int:
        """Decoding steps of the batch since the sampler was created."""
        return self.stats.passes

    @property
    def busy(self) -> bool:
        """Whether a requested turn has not ended yet."""
        return bool(self._scheduler.waiting or self._scheduler.running)

    def submit(self, request: Request) -> None:
        """Ask for a turn.

        Raises:
            ValueError: the context is empty, or the limit is below 1.
            PolicyError: context and limit together exceed the budget.
        """
        if not request.ids or request.limit < 1:
            raise ValueError("a turn needs a context and a limit of at least one token")
        needed = self._scheduler.cells(len(request.ids) + request.limit)
        if needed > self.cache_tokens:
            raise PolicyError(
                f"a conversation of {len(request.ids)} tokens that may grow by {request.limit} "
                f"needs room for {needed} cached tokens, but the budget is {self.cache_tokens}; "
                "raise --cache-tokens or shorten the episodes"
            )
        self._scheduler.waiting.append(TokenSequence(request))

    def forget(self, key: int) -> None:
        """Drop the cache of a conversation that has ended."""
        self._scheduler.prefixes.pop(key)

    @torch.inference_mode()
    def advance(self) -> list[tuple[int, Completion]]:
        """Admit waiting conversations and decode ``poll_every`` more tokens of every turn.

        Returns:
            Key and turn of each conversation whose turn has ended, with ids and log-probabilities
            (at this temperature, before top-k and top-p). A turn is ``truncated`` if it reached its
            limit before an end of turn.

        Raises:
            PolicyError: the model's output is not finite.
        """
        if not self.busy:
            return []
        scheduler = self._scheduler
        scheduler.grow()
        decoding = len(scheduler.running)
        admission = scheduler.admit()
        if admission.segments:
            # One more token for the rows already decoding, the first one for new rows.
            reach = min(scheduler.rows.longest + 1, scheduler.cache.cells)
            self._pass(decoding, reach, admission.segments)
            self._count_pass()
            scheduler.share(admission)
        for _ in range(self.poll_every - bool(admission.segments)):
            self._decode()
        return [(s.request.key, self._completion(s)) for s in scheduler.take_ended()]

    def sample(self, contexts: Sequence[Sequence[int]], limits: Sequence[int]) -> list[Completion]:
        """Sample one turn after each context, of at most as many tokens as its limit."""
        call = next(self._calls)
        for index, (ids, limit) in enumerate(zip(contexts, limits, strict=True)):
            self.submit(Request(index, ids, limit, (self._seed, call, index)))
        turns: dict[int, Completion] = {}
        while self.busy:
            turns.update(self.advance())
        for key in turns:
            self.forget(key)
        return [turns[index] for index in range(len(contexts))]

    def _decode(self) -> None:
        """Decode one more token for every row."""
        scheduler, graphs = self._scheduler, self._graphs
        reach = scheduler.cache.cells
        if not self._reads_what_is_held:
            reach = graphs.reach(scheduler.rows.longest + 1, reach)
        graphs.run(graphs.rows(len(scheduler.running), scheduler.cache.rows), reach, self._pass)
        self._count_pass()

    def _count_pass(self) -> None:
        self._scheduler.rows.longest += 1
        self.stats.passes += 1

    def _pass(self, decoding: int, reach: int, segments: Sequence[PrefillSegment] = ()) -> None:
        """Compute the last tokens of the first ``decoding`` rows, which attend to ``reach`` cells
        at most, and the segments of the rows that follow; sample each row's next token."""
        rows, count = self._scheduler.rows, decoding + len(segments)
        layout = BatchLayout(rows.filled_B[:decoding], reach, segments)
        ids_N = rows.last_B[:decoding]
        if segments:
            running = self._scheduler.running
            new = [i for s in segments for i in running[s.row].context[s.start : s.end]]
            ids_N = torch.cat([ids_N, torch.tensor(new, device=ids_N.device)])
        self._scheduler.cache.aim(layout)
        logits_BV: Tensor = self._decoder.model(
            input_ids=ids_N[None],
            position_ids=layout.cells_N[None],
            past_key_values=self._scheduler.cache,
            use_cache=True,
            logits_to_keep=layout.last_of_each() if segments else 0,
            layout=layout,
        ).logits[0]
        numbers_B = rows.numbers_BL[:count].gather(1, rows.sampled_B[:count, None])[:, 0]
        ids_B, logprobs_B = sample_tokens(
            logits_BV, numbers_B, self.temperature, self.top_p, self.top_k
        )
        rows.record(count, ids_B, logprobs_B, self._stops)

    def _completion(self, sequence: TokenSequence) -> Completion:
        if not all(map(math.isfinite, sequence.logprobs)):
            raise PolicyError(
                f"{self.policy.name} gives probabilities that are not finite; its weights are "
                "broken, or it needs --dtype float32 (in training perhaps a lower learning rate)"
            )
        stopped = sequence.ids[-1] in self.policy.codec.stop_ids
        self.stats.decoded += len(sequence.ids)
        return Completion.from_tokens(
            sequence.ids,
            sequence.logprobs,
            self.policy.decode,
            stop_length=int(stopped),
            truncated=not stopped,
        )


class DecodingModel:
    """A copy of the policy's model that attends through ``row_attention``.

    It shares the policy's weights if they are in the sampling precision. For half precision it has
    its own: float32 weights would have to be converted again for every token.

    Args:
        model: a transformers causal language model.
        dtype: the sampling precision.
    """

    def __init__(self, model: Any, dtype: Precision) -> None:
        wanted = getattr(torch, dtype)
        self._source = model
        self._shares = all(p.dtype == wanted for p in model.parameters())
        self.model = sharing_copy(model) if self._shares else whole_copy(model, dtype)
        # Switching the policy's own model back and forth would traverse it for every token.
        self.model.set_attn_implementation(ROWS)
        if wanted == torch.float32 and model.device.type == "cpu" and onednn_is_faster():
            use_onednn(self.model)

    def refresh(self) -> None:
        """Copy the policy's weights, which may have changed."""
        if not self._shares:
            copy_weights(self.model, self._source)
