"""Packing: many samples in one row, without padding, each prefix that they share only once.

Samples that begin with the same ids form a tree: a group shares its prompt, a branch the history
of its episode. A token's context is the path to it, so equal ids in equal context are one token of
the row, whichever samples they belong to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cleaner_rl.grpo.samples import Sample


@dataclass(frozen=True, slots=True)
class Segments:
    """What attention has to know of a row: runs of tokens, and the path to the end of each.

    The queries of a segment are its own tokens, its keys those of its path, which ends with them.
    The segments' tokens make up the row, in order.

    Attributes:
        queries, keys: the numbers of both, of each segment.
        query_ends_S1, key_ends_S1: [S + 1] int32, their running sums, from 0.
        path_P: where in the row the keys of each segment are; None if nothing is shared, so that
            every segment has no keys but its own.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    query_ends_S1: Tensor
    key_ends_S1: Tensor
    path_P: Tensor | None


@dataclass(frozen=True, slots=True)
class Pack:
    """A row: the tokens to compute, and what the loss has to know of each token of each sample.

    Attributes:
        ids_U, positions_U: the ids of the row's tokens, and their positions in their samples.
        parents_U: where in the row the token before each one is, whose hidden state predicts it; -1
            for the first of a sample.
        segments: the same tokens, as attention sees them.
        samples: the samples, in their order.
        slots_T: where in the row each token of each sample is.
        sample_T: the number of each token's sample in the row.
        weights_T: the weight of each token in the loss.
        mask_T, advantages_T, sampled_logprobs_T, grafted_T: the fields of the samples.
    """

    ids_U: Tensor
    positions_U: Tensor
    parents_U: Tensor
    segments: Segments
    samples: tuple[Sample, ...]
    slots_T: Tensor
    sample_T: Tensor
    mask_T: Tensor
    advantages_T: Tensor
    weights_T: Tensor
    sampled_logprobs_T: Tensor
    grafted_T: Tensor

    @classmethod
    def of(
        cls,
        samples: Sequence[Sample],
        device: torch.device | str = "cpu",
        weights: Sequence[float] | None = None,
        share: bool = True,
    ) -> Pack:
        """Put samples in one row; without ``weights`` every token weighs 1.

        The tokens of the samples (``_T``) keep their order. Unless ``share``, those of the row
        (``_U``) are the same.
        """
        order, shared = _walk(samples, share)
        slots: list[Tensor] = [torch.empty(0)] * len(samples)
        own, paths, parents, size = [], [], [], 0
        path_L = torch.empty(0, dtype=torch.long)
        for i, common in zip(order, shared, strict=True):
            new = len(samples[i]) - common
            before = path_L[common - 1 : common] if common else torch.tensor([-1])
            path_L = slots[i] = torch.cat([path_L[:common], torch.arange(size, size + new)])
            if new:
                own.append((i, common))
                paths.append(path_L)
                parents.append(torch.cat([before, path_L[common:-1]]))
            size += new
        queries = tuple(len(samples[i]) - common for i, common in own)
        keys = tuple(map(len, paths))
        length_S = torch.tensor([len(sample) for sample in samples])
        weight_S = torch.tensor([1.0] * len(samples) if weights is None else list(weights))
        return cls(
            ids_U=_row((samples[i].ids[common:] for i, common in own), torch.long, device),
            positions_U=torch.cat([torch.arange(common, len(samples[i])) for i, common in own]).to(
                device
            ),
            parents_U=torch.cat(parents).to(device),
            segments=Segments(
                queries,
                keys,
                _ends(queries).to(device),
                _ends(keys).to(device),
                None if queries == keys else torch.cat(paths).to(device),
            ),
            samples=tuple(samples),
            slots_T=torch.cat(slots).to(device),
            sample_T=torch.arange(len(samples)).repeat_interleave(length_S).to(device),
            mask_T=_row((s.mask for s in samples), torch.bool, device),
            advantages_T=_row((s.advantages for s in samples), torch.float32, device),
            weights_T=weight_S.repeat_interleave(length_S).to(device),
            sampled_logprobs_T=_row((s.sampled_logprobs for s in samples), torch.float32, device),
            grafted_T=_row((s.grafted for s in samples), torch.bool, device),
        )

    def by_sample(self, *rows_T: Tensor) -> Iterator[tuple[Any, ...]]:
        """Each sample with its part of every row of numbers: one number for each of its tokens."""
        lengths = [len(sample) for sample in self.samples]
        return zip(self.samples, *(row_T.split(lengths) for row_T in rows_T), strict=True)

    @classmethod
    def idle(cls, device: torch.device | str = "cpu") -> Pack:
        """A row of one token without a gradient, for a rank that has no more rows of its own."""
        return cls.of([Sample((0,), (False,), (0.0,), (0.0,), (False,))], device)


def _row(
    parts: Iterable[Sequence[float]], dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    return torch.tensor([value for part in parts for value in part], dtype=dtype, device=device)


def _ends(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def _walk(samples: Sequence[Sample], share: bool) -> tuple[list[int], list[int]]:
    """The order in which a walk through the tree of the samples comes to their ends, and how many
    tokens each has in common with the one before it.

    It has no more in common with any earlier one. A sample that another one begins with comes
    after it. Unless ``share``, samples keep their order and have nothing in common.
    """
    order = list(range(len(samples)))
    if not share:
        return order, [0] * len(order)
    order.sort(key=lambda i: samples[i].ids, reverse=True)
    ids = [samples[i].ids for i in order]
    return order, [0, *map(_in_common, ids, ids[1:])][: len(order)]


def _in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of ids with which both begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def pack(
    samples: Sequence[Sample],
    max_tokens: int,
    device: torch.device | str = "cpu",
    weights: Sequence[float] | None = None,
    share: bool = True,
) -> list[Pack]:
    """Pack samples into few rows that compute at most ``max_tokens`` tokens each.

    A tree that fits a row is in one. One that does not is cut where the fewest tokens are repeated:
    as near to its root as possible. A sample longer than the budget gets a row of its own: nothing
    is truncated. ``weights`` has the weight in the loss of each sample's tokens; without it, that
    is 1. Unless ``share``, every sample is a tree of its own.
    """
    order, shared = _walk(samples, share)
    lengths = [len(samples[i]) for i in order]
    rows = [[order[i] for i in row] for row in _rows(lengths, shared, max_tokens)]
    return [
        Pack.of([samples[i] for i in row], device, weights and [weights[i] for i in row], share)
        for row in rows
    ]


_Row = tuple[int, list[int]]
"""The number of tokens, and the samples by their place in the walk."""
_Node = tuple[int, list[_Row]]
"""A token at which paths part: how many tokens lead to it, and the rows of what lies behind it."""


def _rows(lengths: Sequence[int], shared: Sequence[int], budget: int) -> list[list[int]]:
    """Distribute samples, given in the order of ``_walk``, over rows.

    Samples join from the ends of the tree to its root, at every token where paths part: the deeper
    it is, the more tokens are saved by sharing a row.
    """
    nodes: list[_Node] = [(0, [])]
    for i, length in enumerate(lengths):
        _close(nodes, shared[i], budget)
        if nodes[-1][0] < length:
            nodes.append((length, []))
        nodes[-1][1].append((length, [i]))
    _close(nodes, 0, budget)
    return [samples for _, samples in _joined(*nodes[0], budget)]


def _close(nodes: list[_Node], depth: int, budget: int) -> None:
    """Leave the nodes deeper than that; the last open one then has just that depth."""
    while nodes[-1][0] > depth:
        left = nodes.pop()
        if nodes[-1][0] < depth:
            nodes.append((depth, []))
        nodes[-1][1].extend(_joined(*left, budget))


def _joined(depth: int, rows: list[_Row], budget: int) -> list[_Row]:
    """Join rows that have their first ``depth`` tokens in common, by first-fit decreasing."""
    joined: list[_Row] = []
    for size, samples in sorted(rows, key=lambda row: row[0], reverse=True):
        for at, (held, others) in enumerate(joined):
            # A sample that is part of another one fits even a row beyond the budget.
            if held + size - depth <= max(budget, held):
                joined[at] = (held + size - depth, others + samples)
                break
        else:
            joined.append((size, samples))
    return joined
