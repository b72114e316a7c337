"""Packing: many samples of different lengths in one row, without padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cleaner_rl.grpo.samples import Sample


@dataclass(frozen=True, slots=True)
class Pack:
    """Samples end to end. Position t of the row predicts the token at t + 1.

    Attributes:
        positions_T: the position of each token in its sample, from 0.
        boundaries_S1: [S + 1] int32, the start of each sample, then the length of the row.
        samples: the samples, in their order.
        lengths: the lengths of the samples.
        sample_T: the number of each token's sample in the row.
        weights_T: the weight of each token in the loss.
        ids_T, mask_T, advantages_T, sampled_logprobs_T, grafted_T: the fields of the samples.
    """

    ids_T: Tensor
    positions_T: Tensor
    boundaries_S1: Tensor
    samples: tuple[Sample, ...]
    lengths: tuple[int, ...]
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
    ) -> Pack:
        """Put samples in one row, in their order; without ``weights`` every token weighs 1."""
        lengths = [len(sample) for sample in samples]
        length_S = torch.tensor(lengths)
        boundaries = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        weight_S = torch.tensor([1.0] * len(lengths) if weights is None else list(weights))
        return cls(
            ids_T=_row((s.ids for s in samples), torch.long, device),
            positions_T=torch.cat([torch.arange(n) for n in lengths]).to(device),
            boundaries_S1=boundaries.to(device),
            samples=tuple(samples),
            lengths=tuple(lengths),
            sample_T=torch.arange(len(lengths)).repeat_interleave(length_S).to(device),
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


def pack(
    samples: Sequence[Sample],
    max_tokens: int,
    device: torch.device | str = "cpu",
    weights: Sequence[float] | None = None,
) -> list[Pack]:
    """Pack samples into few rows of at most ``max_tokens`` tokens, by first-fit decreasing.

    The samples of an episode, which share a prefix, stay next to each other unless they exceed the
    budget together. A sample longer than the budget gets a row of its own: nothing is truncated.
    ``weights`` has the weight in the loss of each sample's tokens; without it, that is 1.
    """
    rows: list[list[int]] = []
    free: list[int] = []
    units = [(sum(len(samples[i]) for i in unit), unit) for unit in _units(samples, max_tokens)]
    for length, unit in sorted(units, key=lambda item: item[0], reverse=True):
        for row, room in enumerate(free):
            if length <= room:
                rows[row] += unit
                free[row] -= length
                break
        else:
            rows.append(list(unit))
            free.append(max_tokens - length)
    return [
        Pack.of([samples[i] for i in row], device, weights and [weights[i] for i in row])
        for row in rows
    ]


def _units(samples: Sequence[Sample], max_tokens: int) -> list[list[int]]:
    """Indices of samples that stay together: those of an episode, or a single one."""
    episodes: dict[int, list[int]] = {}
    for i, sample in enumerate(samples):
        episodes.setdefault(-1 - i if sample.episode is None else sample.episode, []).append(i)
    units = []
    for unit in episodes.values():
        together = sum(len(samples[i]) for i in unit) <= max_tokens
        units += [unit] if together else [[i] for i in unit]
    return units
