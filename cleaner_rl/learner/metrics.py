"""UpdateMetrics: the metrics of updates, summed on the device and read once."""

from __future__ import annotations

import torch
from torch import Tensor

from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.grpo.loss import LossInputs, kl_estimate
from cleaner_rl.learner.packing import Pack

_SUMS = (
    *("loss", "trained", "entropy", "clipped", "ratios_bounded", "kl", "reference_kl", "grafted"),
    *("grafted_gap", "sampled", "sampled_gap", "importance", "capped"),
)
ENTROPY = _SUMS.index("entropy")


def row_sums(
    row: Pack, loss: Tensor, tokens: LossInputs, entropies_T: Tensor, more: dict[str, Tensor]
) -> Tensor:
    """``_SUMS`` of a row in float64. ``more`` holds the loss's metrics and, where they exist,
    ``reference_kl``, ``importance`` and ``capped``."""
    mask_T = row.mask_T
    gap_T = (tokens.old_logprobs_T - row.sampled_logprobs_T).abs()
    grafted_T, sampled_T = mask_T & row.grafted_T, mask_T & ~row.grafted_T
    sums = {
        "loss": loss.detach(),
        "trained": mask_T.sum(),
        "entropy": torch.where(mask_T, entropies_T, 0.0).sum(),
        "kl": kl_estimate(tokens.old_logprobs_T, tokens.logprobs_T.detach()).sum(),
        "grafted": grafted_T.sum(),
        "grafted_gap": torch.where(grafted_T, gap_T, 0.0).sum(),
        "sampled": sampled_T.sum(),
        "sampled_gap": torch.where(sampled_T, gap_T, 0.0).sum(),
        **more,
    }
    zero = torch.zeros((), device=loss.device)
    return torch.stack([sums.get(name, zero).double() for name in _SUMS])


class UpdateMetrics:
    """Sums over the updates of a step; skipped updates are only counted.

    Attributes:
        counted: the number of tokens in the denominators.
        skipped: updates that were skipped because a number was not finite.
    """

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.counted = 0
        self._updates = 0
        self.skipped = 0
        self._grad_norm = 0.0
        self._sums: Tensor | None = None

    def add(self, sums: Tensor, grad_norm: float) -> None:
        """Add an update, given the sums over its rows and its gradient norm."""
        self._sums = sums if self._sums is None else self._sums + sums
        self._grad_norm += grad_norm
        self._updates += 1

    def means(self, ranks: Ranks) -> dict[str, float]:
        """The metrics over all ranks; docs/training-reference.md explains each."""
        sums = ranks.sum([0.0] * len(_SUMS) if self._sums is None else self._sums.tolist())
        total = dict(zip(_SUMS, sums, strict=True))
        updates, trained = max(1, self._updates), max(1.0, total["trained"])
        return {
            "loss": total["loss"] / updates,
            "grad_norm": self._grad_norm / updates,
            "learning_rate": self.learning_rate,
            "skipped_updates": float(self.skipped),
            "entropy": total["entropy"] / trained,
            "clipped": total["clipped"] / trained,
            "ratios_bounded": total["ratios_bounded"],
            "kl": total["kl"] / trained,
            "reference_kl": total["reference_kl"] / trained,
            "importance": total["importance"] / trained,
            "importance_capped": total["capped"] / trained,
            "trained_tokens": total["trained"],
            "counted_tokens": float(self.counted),
            "grafted_share": total["grafted"] / trained,
            "grafted_gap": total["grafted_gap"] / max(1.0, total["grafted"]),
            "sampled_gap": total["sampled_gap"] / max(1.0, total["sampled"]),
        }
