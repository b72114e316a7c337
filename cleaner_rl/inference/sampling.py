"""Drawing: tokens from logits, by numbers that belong to the turn and not to the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 256
"""Tokens of the vocabulary that are searched together."""


def turn_numbers(seed: Sequence[int], count: int) -> Tensor:
    """Uniform numbers in [0, 1) for the tokens of a turn, the same ones for the same seed.

    Args:
        seed: whole numbers, not negative, that no other turn has.
        count: most tokens of the turn.

    Returns:
        [count] float64.
    """
    bits = np.random.Philox(np.random.SeedSequence(tuple(seed)))
    return torch.from_numpy(np.random.Generator(bits).random(count))


def sample_tokens(
    logits_BV: Tensor, numbers_B: Tensor, temperature: float, top_p: float, top_k: int
) -> tuple[Tensor, Tensor]:
    """A token for every row, by inversion of its distribution function.

    Rounding that differs from batch to batch moves the function's steps by some 1e-7: it changes a
    token only when the row's number falls just there.

    Args:
        logits_BV: of the next token.
        numbers_B: uniform in [0, 1), float64.
        temperature: the logits are divided by it.
        top_p: draw from the smallest set of tokens with at least this probability.
        top_k: draw from that many of the most probable tokens; 0 for all. Applied before ``top_p``.

    Returns:
        ids_B, and logprobs_B at this temperature before top-k and top-p; NaN where logits are.
    """
    probabilities_BV = torch.softmax(logits_BV.float() / temperature, dim=-1)
    kept_BV = nucleus(most_probable(probabilities_BV, top_k), top_p)
    find = inverse_by_blocks if kept_BV.device.type == "cuda" else inverse
    ids_B1 = find(kept_BV, numbers_B)
    return ids_B1[:, 0], probabilities_BV.gather(1, ids_B1)[:, 0].log()


def inverse(weights_BV: Tensor, numbers_B: Tensor) -> Tensor:
    """[B, 1]: where the running sum of the weights first exceeds the number's share of their sum;
    any place where weights are NaN."""
    steps_BV = weights_BV.cumsum(-1, dtype=torch.float64)
    total_B1 = steps_BV[:, -1:]
    target_B1 = torch.minimum(numbers_B[:, None] * total_B1, total_B1.nextafter(0 * total_B1))
    ids_B1 = torch.searchsorted(steps_BV, target_B1, right=True)
    return ids_B1.clamp_(max=weights_BV.shape[1] - 1)


def inverse_by_blocks(weights_BV: Tensor, numbers_B: Tensor) -> Tensor:
    """As ``inverse``, for GPUs, which take longer for the running sum of a whole vocabulary than
    for a small model's forward pass: the sums of blocks say in which block to look."""
    blocks_BKC = F.pad(weights_BV, (0, -weights_BV.shape[1] % _BLOCK)).unflatten(1, (-1, _BLOCK))
    ends_BK = blocks_BKC.sum(-1, dtype=torch.float64).cumsum(-1)
    total_B1 = ends_BK[:, -1:]
    target_B1 = torch.minimum(numbers_B[:, None] * total_B1, total_B1.nextafter(0 * total_B1))
    block_B1 = torch.searchsorted(ends_BK, target_B1, right=True).clamp_(max=ends_BK.shape[1] - 1)
    begin_B1 = F.pad(ends_BK, (1, 0)).gather(1, block_B1)
    block_B1C = blocks_BKC.gather(1, block_B1[..., None].expand(-1, -1, _BLOCK))
    steps_BC = begin_B1 + block_B1C[:, 0].cumsum(-1, dtype=torch.float64)
    # Both sums are rounded: the number may lie beyond the last weight of its block.
    last_B1 = steps_BC[:, -1:]
    target_B1 = torch.minimum(target_B1, last_B1.nextafter(0 * last_B1))
    ids_B1 = block_B1 * _BLOCK + torch.searchsorted(steps_BC, target_B1, right=True)
    return ids_B1.clamp_(max=weights_BV.shape[1] - 1)


def most_probable(probabilities_BV: Tensor, top_k: int) -> Tensor:
    """Probabilities with all but the ``top_k`` largest set to zero; 0 keeps all."""
    if not 0 < top_k < probabilities_BV.shape[1]:
        return probabilities_BV
    values_BK, index_BK = probabilities_BV.topk(top_k, dim=-1)
    return torch.zeros_like(probabilities_BV).scatter(1, index_BK, values_BK)


def nucleus(probabilities_BV: Tensor, top_p: float) -> Tensor:
    """Probabilities outside the smallest set with the share ``top_p`` of the mass set to zero."""
    if top_p >= 1:
        return probabilities_BV
    ordered_BV, index_BV = probabilities_BV.sort(dim=-1, descending=True)
    mass_BV = ordered_BV.cumsum(-1)
    outside_BV = mass_BV - ordered_BV >= top_p * mass_BV[:, -1:]
    return torch.zeros_like(ordered_BV).scatter(1, index_BV, ordered_BV.masked_fill(outside_BV, 0))
