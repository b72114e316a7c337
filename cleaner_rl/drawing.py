"""Drawing: tokens from logits, by numbers that belong to the turn and not to the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


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


def draw(
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
    steps_BV = kept_BV.cumsum(-1, dtype=torch.float64)
    total_B1 = steps_BV[:, -1:]
    target_B1 = torch.minimum(numbers_B[:, None] * total_B1, total_B1.nextafter(0 * total_B1))
    ids_B1 = torch.searchsorted(steps_BV, target_B1, right=True).clamp_(max=steps_BV.shape[1] - 1)
    return ids_B1[:, 0], probabilities_BV.gather(1, ids_B1)[:, 0].log()


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
