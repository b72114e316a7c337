"""UpdateMetrics: what an update reports, added up on the device and read once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.learner.packing import Pack

_SUMS = (
    *("loss", "trained", "entropy", "clipped", "kl", "reference_kl", "grafted", "grafted_gap"),
    *("sampled", "sampled_gap", "importance", "capped", "not_finite"),
)


class UpdateMetrics:
    """Sums over the packs of a step.

    Args:
        learning_rate: of the step.

    Attributes:
        learning_rate: of the step.
        counted: tokens in the denominators.
        updates: that were done.
        skipped: that were left out because their gradients were not finite.
        grad_norm: sum over updates.
    """

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.counted = 0
        self.updates = 0
        self.skipped = 0
        self.grad_norm = 0.0
        self._sums: Tensor | None = None

    def add(self, rows: Sequence[Tensor], left_out: int = 0) -> None:
        """Add the packs of an update, which ``of`` gave, and tokens that have left the packs."""
        total = torch.stack(list(rows)).sum(0)
        total[_SUMS.index("trained")] += left_out
        total[_SUMS.index("not_finite")] += left_out
        self._sums = total if self._sums is None else self._sums + total

    @staticmethod
    def of(
        packed: Pack,
        mask_T: Tensor,
        loss: Tensor,
        sums: dict[str, Tensor],
        old_logprobs_T: Tensor,
        entropies_T: Tensor,
    ) -> Tensor:
        """What ``add`` wants of a pack.

        Args:
            packed: the pack.
            mask_T: True for tokens that took part, whose numbers are finite.
            loss: of the pack.
            sums: others over tokens: ``clipped``, ``kl``, and ``reference_kl``, ``importance`` and
                ``capped`` where there are such.
            old_logprobs_T: before the update.
            entropies_T: of each token.
        """
        gap_T = (old_logprobs_T - packed.sampled_logprobs_T).abs()
        grafted_T, sampled_T = mask_T & packed.grafted_T, mask_T & ~packed.grafted_T
        values = {
            "loss": loss.detach(),
            "trained": packed.mask_T.sum(),
            "entropy": _sum(entropies_T, mask_T),
            "grafted": grafted_T.sum(),
            "grafted_gap": _sum(gap_T, grafted_T),
            "sampled": sampled_T.sum(),
            "sampled_gap": _sum(gap_T, sampled_T),
            "not_finite": (packed.mask_T & ~mask_T).sum(),
            **sums,
        }
        zero = torch.zeros((), dtype=torch.float64, device=loss.device)
        return torch.stack([values.get(name, zero).double() for name in _SUMS])

    def means(self, ranks: Ranks) -> dict[str, float]:
        """The metrics over all ranks, each explained in docs/training.md."""
        sums = ranks.sum([0.0] * len(_SUMS) if self._sums is None else self._sums.tolist())
        total = dict(zip(_SUMS, sums, strict=True))
        updates, trained = max(1, self.updates), max(1.0, total["trained"])
        return {
            "loss": total["loss"] / updates,
            "grad_norm": self.grad_norm / updates,
            "learning_rate": self.learning_rate,
            "skipped_updates": float(self.skipped),
            "not_finite_tokens": total["not_finite"],
            "entropy": total["entropy"] / trained,
            "clipped": total["clipped"] / trained,
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


def _sum(values_T: Tensor, mask_T: Tensor) -> Tensor:
    return torch.where(mask_T, values_T, 0.0).sum()
