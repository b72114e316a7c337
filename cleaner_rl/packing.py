"""Packing: many samples of different lengths in one row without padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cleaner_rl.samples import Sample


@dataclass(frozen=True, slots=True)
class Pack:
    """Samples end to end. Position t of the row predicts the token at t + 1.

    Attributes:
        ids_T: token ids.
        positions_T: position of each token in its sample, from 0.
        boundaries_S1: [S + 1] int32 start of each sample, then the length of the row.
        longest: length of the longest sample.
        mask_T: True where the token counts in the loss.
        advantages_T: advantage of each token.
        sampled_logprobs_T: log-probability when the token was sampled.
        grafted_T: True where the token was sampled in another context.
    """

    ids_T: Tensor
    positions_T: Tensor
    boundaries_S1: Tensor
    longest: int
    mask_T: Tensor
    advantages_T: Tensor
    sampled_logprobs_T: Tensor
    grafted_T: Tensor

    @classmethod
    def of(cls, samples: Sequence[Sample], device: torch.device | str = "cpu") -> Pack:
        """The samples in one row, in their order."""
        lengths = [len(sample) for sample in samples]
        boundaries = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return cls(
            ids_T=_row((s.ids for s in samples), torch.long, device),
            positions_T=torch.cat([torch.arange(n) for n in lengths]).to(device),
            boundaries_S1=boundaries.to(device),
            longest=max(lengths),
            mask_T=_row((s.mask for s in samples), torch.bool, device),
            advantages_T=_row((s.advantages for s in samples), torch.float32, device),
            sampled_logprobs_T=_row((s.sampled_logprobs for s in samples), torch.float32, device),
            grafted_T=_row((s.grafted for s in samples), torch.bool, device),
        )


def _row(
    parts: Iterable[Sequence[float]], dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    return torch.tensor([value for part in parts for value in part], dtype=dtype, device=device)


def pack(
    samples: Sequence[Sample], max_tokens: int, device: torch.device | str = "cpu"
) -> list[Pack]:
    """First-fit decreasing: as few rows of at most ``max_tokens`` tokens as that finds.

    A sample longer than the budget gets a row of its own: nothing is cut.
    """
    rows: list[list[Sample]] = []
    free: list[int] = []
    for sample in sorted(samples, key=len, reverse=True):
        for i, room in enumerate(free):
            if len(sample) <= room:
                rows[i].append(sample)
                free[i] -= len(sample)
                break
        else:
            rows.append([sample])
            free.append(max_tokens - len(sample))
    return [Pack.of(row, device) for row in rows]
