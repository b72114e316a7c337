"""Sequences: turns that are asked for and sampled, and the rows of those decoded, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cleaner_rl.inference.sampling import turn_numbers


@dataclass(frozen=True, slots=True)
class Request:
    """A turn that is asked for.

    Attributes:
        key: of the conversation; it has one turn at a time.
        ids: the context that the turn continues, at least one token.
        limit: most tokens that the turn may have, end of turn included; at least 1.
        seed: of the turn's random numbers; no two turns should share it.
    """

    key: int
    ids: Sequence[int]
    limit: int
    seed: tuple[int, ...]


@dataclass(slots=True)
class TokenSequence:
    """A turn that is being sampled.

    Attributes:
        request: what was asked for.
        ids, logprobs: of its tokens, so far; kept up to date only while it has no row.
    """

    request: Request
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def context(self) -> list[int]:
        """All tokens of the conversation."""
        return [*self.request.ids, *self.ids]

    @property
    def length(self) -> int:
        """How many they are."""
        return len(self.request.ids) + len(self.ids)


@dataclass(slots=True)
class SequenceRows:
    """The turns of the batch, a row each.

    Attributes:
        last_B: the token that is decoded next.
        filled_B: tokens in the cache, so the position of that token.
        sampled_B: tokens sampled of the turn.
        limit_B: most that it may have.
        over_B: it has ended; its row stays as it is.
        numbers_BL, ids_BL, logprobs_BL: of each token of the turn.
        longest: the largest of ``filled_B``, or more.
    """

    last_B: Tensor
    filled_B: Tensor
    sampled_B: Tensor
    limit_B: Tensor
    over_B: Tensor
    numbers_BL: Tensor
    ids_BL: Tensor
    logprobs_BL: Tensor
    longest: int

    @classmethod
    def empty(cls, device: torch.device) -> SequenceRows:
        """No turn yet."""
        whole = [torch.zeros(0, dtype=torch.long, device=device) for _ in range(4)]
        over = torch.zeros(0, dtype=torch.bool, device=device)
        numbers, ids, logprobs = (
            torch.zeros(0, 0, dtype=dtype, device=device)
            for dtype in (torch.float64, torch.long, torch.float32)
        )
        last, filled, sampled, limit = whole
        return cls(last, filled, sampled, limit, over, numbers, ids, logprobs, longest=0)

    def begin(self, first: int, turns: Sequence[TokenSequence]) -> None:
        """Turns begin, or go on, in the rows from ``first`` on; there must be room."""
        rows_B = slice(first, first + len(turns))
        columns = (
            (self.last_B, [turn.context[-1] for turn in turns]),
            (self.filled_B, [turn.length - 1 for turn in turns]),
            (self.sampled_B, [len(turn.ids) for turn in turns]),
            (self.limit_B, [turn.request.limit for turn in turns]),
        )
        for column, values in columns:
            column[rows_B] = torch.tensor(values, device=column.device)
        self.over_B[rows_B] = False
        for row, turn in enumerate(turns, start=first):
            limit, done = turn.request.limit, len(turn.ids)
            self.numbers_BL[row, :limit] = turn_numbers(turn.request.seed, limit)
            if done:
                device = self.ids_BL.device
                self.ids_BL[row, :done] = torch.tensor(turn.ids, device=device)
                self.logprobs_BL[row, :done] = torch.tensor(turn.logprobs, device=device)
        self.longest = max(self.longest, *(turn.length - 1 for turn in turns))

    def record(self, count: int, ids_B: Tensor, logprobs_B: Tensor, stops: Tensor) -> None:
        """A token was drawn for each of the first ``count`` rows."""
        going_B = ~self.over_B[:count]
        sampled_B = self.sampled_B[:count]
        self.ids_BL[:count].scatter_(1, sampled_B[:, None], ids_B[:, None])
        self.logprobs_BL[:count].scatter_(1, sampled_B[:, None], logprobs_B[:, None])
        self.last_B[:count] = torch.where(going_B, ids_B, self.last_B[:count])
        sampled_B += going_B
        self.filled_B[:count] += going_B
        stopped_B = (ids_B[:, None] == stops).any(1) | (sampled_B >= self.limit_B[:count])
        self.over_B[:count] |= going_B & stopped_B

    def read(self, row: int, turn: TokenSequence) -> None:
        """Bring the tokens of a row's turn up to date."""
        count = int(self.sampled_B[row])
        turn.ids = self.ids_BL[row, :count].tolist()
        turn.logprobs = self.logprobs_BL[row, :count].tolist()

    def move(self, source: int, target: int) -> None:
        """A row's turn goes on in another row."""
        for column in (self.last_B, self.filled_B, self.sampled_B, self.limit_B, self.over_B):
            column[target] = column[source]
        for table in (self.numbers_BL, self.ids_BL, self.logprobs_BL):
            table[target] = table[source]

    def empty_from(self, count: int) -> None:
        """Rows from there on have no turn."""
        self.over_B[count:] = True
        self.filled_B[count:] = 0
        self.sampled_B[count:] = 0
        self.longest = int(self.filled_B.max()) if count else 0

    def widen(self, rows: int, limit: int) -> bool:
        """Make room for so many rows and tokens of a turn. True when the tensors have moved."""
        # A turn that has ended between two looks draws once more, into the column behind its last.
        old_rows, old_width = self.ids_BL.shape
        if old_rows >= rows and old_width > limit:
            return False
        rows, width = max(rows, old_rows), max(limit + 1, old_width)
        for name in ("last_B", "filled_B", "sampled_B", "limit_B", "over_B"):
            old = getattr(self, name)
            new = old.new_zeros(rows)
            new[:old_rows] = old
            setattr(self, name, new)
        for name in ("numbers_BL", "ids_BL", "logprobs_BL"):
            old = getattr(self, name)
            new = old.new_zeros(rows, width)
            new[:old_rows, :old_width] = old
            setattr(self, name, new)
        self.over_B[old_rows:] = True
        return True
