"""Sampling: requested turns, the state of their rows as tensors, and how a token is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 256
"""Tokens of the vocabulary in one block of the search on GPUs."""


@dataclass(frozen=True, slots=True)
class Request:
    """A turn to sample.

    Attributes:
        key: the conversation's key; a conversation has one turn at a time.
        ids: the context that the turn continues, at least one token.
        limit: the most tokens that the turn may have, end of turn included; at least 1.
        seed: seed of the turn's random numbers; no two turns should share it.
    """

    key: int
    ids: Sequence[int]
    limit: int
    seed: tuple[int, ...]


@dataclass(slots=True)
class TokenSequence:
    """A context and the turn that is being sampled after it.

    Attributes:
        request: the request for the turn.
        ids, logprobs: the turn's tokens so far; brought up to date when it leaves its row.
    """

    request: Request
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def context(self) -> list[int]:
        """The context's tokens, then the turn's."""
        return [*self.request.ids, *self.ids]

    @property
    def length(self) -> int:
        return len(self.request.ids) + len(self.ids)


@dataclass(slots=True)
class SequenceRows:
    """The state of the sequences being decoded, one row each.

    Attributes:
        last_B: the next token to compute.
        filled_B: the number of tokens in the cache, which is also that token's position.
        sampled_B: how many tokens of the turn have been sampled.
        limit_B: how many it may have.
        over_B: whether the turn has ended; its row then no longer changes.
        numbers_BL: the uniform random number for each token of the turn.
        ids_BL, logprobs_BL: the sampled tokens and their log-probabilities.
        longest: an upper bound on ``filled_B``.
    """

    last_B: Tensor
    filled_B: Tensor
    sampled_B: Tensor
    limit_B: Tensor
    over_B: Tensor
    numbers_BL: Tensor
    ids_BL: Tensor
    logprobs_BL: Tensor
    longest: int = field(default=0, init=False)

    @classmethod
    def empty(cls, device: torch.device) -> SequenceRows:
        """No rows yet."""
        columns = [torch.long, torch.long, torch.long, torch.long, torch.bool]
        tables = [torch.float64, torch.long, torch.float32]
        return cls(
            *[torch.zeros(0, dtype=dtype, device=device) for dtype in columns],
            *[torch.zeros(0, 0, dtype=dtype, device=device) for dtype in tables],
        )

    def begin(self, first: int, sequences: Sequence[TokenSequence]) -> None:
        """Start or continue sequences in the rows from ``first`` on; there must be room."""
        rows_B = slice(first, first + len(sequences))
        columns = (
            (self.last_B, [s.context[-1] for s in sequences]),
            (self.filled_B, [s.length - 1 for s in sequences]),
            (self.sampled_B, [len(s.ids) for s in sequences]),
            (self.limit_B, [s.request.limit for s in sequences]),
        )
        for column, values in columns:
            column[rows_B] = torch.tensor(values, device=column.device)
        self.over_B[rows_B] = False
        for row, sequence in enumerate(sequences, start=first):
            limit, done = sequence.request.limit, len(sequence.ids)
            self.numbers_BL[row, :limit] = turn_numbers(sequence.request.seed, limit)
            self.ids_BL[row, :done] = torch.tensor(sequence.ids, dtype=torch.long)
            self.logprobs_BL[row, :done] = torch.tensor(sequence.logprobs)
        self.longest = max(self.longest, *(s.length - 1 for s in sequences))

    def record(self, count: int, ids_B: Tensor, logprobs_B: Tensor, stops: Tensor) -> None:
        """Append a token to those of the first ``count`` rows whose turns have not ended."""
        going_B = ~self.over_B[:count]
        sampled_B = self.sampled_B[:count]
        self.ids_BL[:count].scatter_(1, sampled_B[:, None], ids_B[:, None])
        self.logprobs_BL[:count].scatter_(1, sampled_B[:, None], logprobs_B[:, None])
        self.last_B[:count] = torch.where(going_B, ids_B, self.last_B[:count])
        sampled_B += going_B
        self.filled_B[:count] += going_B
        stopped_B = (ids_B[:, None] == stops).any(1) | (sampled_B >= self.limit_B[:count])
        self.over_B[:count] |= going_B & stopped_B

    def read(self, row: int, sequence: TokenSequence) -> None:
        """Update a sequence's tokens from its row."""
        count = int(self.sampled_B[row])
        sequence.ids = self.ids_BL[row, :count].tolist()
        sequence.logprobs = self.logprobs_BL[row, :count].tolist()

    def move(self, source: int, target: int) -> None:
        """Move a sequence to another row."""
        for name in (*_COLUMNS, *_TABLES):
            tensor = getattr(self, name)
            tensor[target] = tensor[source]

    def empty_from(self, count: int) -> None:
        """Mark the rows from ``count`` on as empty."""
        self.over_B[count:] = True
        self.filled_B[count:] = 0
        self.sampled_B[count:] = 0
        self.longest = int(self.filled_B.max()) if count else 0

    def widen(self, rows: int, limit: int) -> bool:
        """Make room for that many rows and tokens per turn. Returns whether tensors have moved."""
        # A turn that ended between two polls is still drawn, into the column after its last.
        old_rows, old_width = self.ids_BL.shape
        if old_rows >= rows and old_width > limit:
            return False
        rows, width = max(rows, old_rows), max(limit + 1, old_width)
        for name in (*_COLUMNS, *_TABLES):
            old = getattr(self, name)
            new = old.new_zeros((rows, width)[: old.dim()])
            new[tuple(slice(size) for size in old.shape)] = old
            setattr(self, name, new)
        self.over_B[old_rows:] = True
        return True


_COLUMNS = ("last_B", "filled_B", "sampled_B", "limit_B", "over_B")
_TABLES = ("numbers_BL", "ids_BL", "logprobs_BL")


def turn_numbers(seed: Sequence[int], count: int) -> Tensor:
    """[count] float64, uniform in [0, 1): the random numbers of a turn, determined by its seed of
    non-negative integers."""
    bits = np.random.Philox(np.random.SeedSequence(tuple(seed)))
    return torch.from_numpy(np.random.Generator(bits).random(count))


def sample_tokens(
    logits_BV: Tensor, numbers_B: Tensor, temperature: float, top_p: float, top_k: int
) -> tuple[Tensor, Tensor]:
    """Draw a token for every row by inverting its cumulative distribution.

    ``numbers_B`` are float64, uniform in [0, 1). ``top_k`` is applied before ``top_p``. Rounding
    that differs from batch to batch moves the distribution's steps by some 1e-7, so it changes a
    token only when the row's number falls right next to a step.

    Returns:
        ids_B, and logprobs_B at this temperature, before top-k and top-p; NaN where logits are NaN.
    """
    probabilities_BV = torch.softmax(logits_BV.float() / temperature, dim=-1)
    kept_BV = nucleus(most_probable(probabilities_BV, top_k), top_p)
    find = inverse_by_blocks if kept_BV.device.type == "cuda" else inverse
    ids_B1 = find(kept_BV, numbers_B)
    return ids_B1[:, 0], probabilities_BV.gather(1, ids_B1)[:, 0].log()


def inverse(weights_BV: Tensor, numbers_B: Tensor) -> Tensor:
    """[B, 1]: the first index where the cumulative sum of the weights exceeds the number times
    their total; any index where weights are NaN."""
    steps_BV = weights_BV.cumsum(-1, dtype=torch.float64)
    total_B1 = steps_BV[:, -1:]
    target_B1 = torch.minimum(numbers_B[:, None] * total_B1, total_B1.nextafter(0 * total_B1))
    ids_B1 = torch.searchsorted(steps_BV, target_B1, right=True)
    return ids_B1.clamp_(max=weights_BV.shape[1] - 1)


def inverse_by_blocks(weights_BV: Tensor, numbers_B: Tensor) -> Tensor:
    """``inverse`` for GPUs, where the cumulative sum over a whole vocabulary takes longer than a
    small model's forward pass: the sums of blocks tell which block to search."""
    blocks_BKC = F.pad(weights_BV, (0, -weights_BV.shape[1] % _BLOCK)).unflatten(1, (-1, _BLOCK))
    ends_BK = blocks_BKC.sum(-1, dtype=torch.float64).cumsum(-1)
    total_B1 = ends_BK[:, -1:]
    target_B1 = torch.minimum(numbers_B[:, None] * total_B1, total_B1.nextafter(0 * total_B1))
    block_B1 = torch.searchsorted(ends_BK, target_B1, right=True).clamp_(max=ends_BK.shape[1] - 1)
    begin_B1 = F.pad(ends_BK, (1, 0)).gather(1, block_B1)
    block_B1C = blocks_BKC.gather(1, block_B1[..., None].expand(-1, -1, _BLOCK))
    steps_BC = begin_B1 + block_B1C[:, 0].cumsum(-1, dtype=torch.float64)
    # Both sums are rounded, so the target may lie beyond the last weight of its block.
    last_B1 = steps_BC[:, -1:]
    target_B1 = torch.minimum(target_B1, last_B1.nextafter(0 * last_B1))
    ids_B1 = block_B1 * _BLOCK + torch.searchsorted(steps_BC, target_B1, right=True)
    return ids_B1.clamp_(max=weights_BV.shape[1] - 1)


def most_probable(probabilities_BV: Tensor, top_k: int) -> Tensor:
    """Set all but the ``top_k`` largest probabilities to zero; 0 keeps all."""
    if not 0 < top_k < probabilities_BV.shape[1]:
        return probabilities_BV
    values_BK, index_BK = probabilities_BV.topk(top_k, dim=-1)
    return torch.zeros_like(probabilities_BV).scatter(1, index_BK, values_BK)


def nucleus(probabilities_BV: Tensor, top_p: float) -> Tensor:
    """Set probabilities outside the smallest set with the share ``top_p`` of the mass to zero."""
    if top_p >= 1:
        return probabilities_BV
    ordered_BV, index_BV = probabilities_BV.sort(dim=-1, descending=True)
    mass_BV = ordered_BV.cumsum(-1)
    outside_BV = mass_BV - ordered_BV >= top_p * mass_BV[:, -1:]
    return torch.zeros_like(ordered_BV).scatter(1, index_BV, ordered_BV.masked_fill(outside_BV, 0))
