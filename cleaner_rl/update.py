"""Update: one step's samples turned into optimiser updates of the policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cleaner_rl.errors import UserError
from cleaner_rl.logprobs import token_logprobs
from cleaner_rl.loss import dapo_loss
from cleaner_rl.packing import Pack, pack
from cleaner_rl.precision import Precision, autocast
from cleaner_rl.samples import Sample

_MAX_NOT_FINITE = 5
"""Updates in a row whose gradients may be not finite (float16 finds its scale that way)."""


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    """Settings of the optimiser and the loss; each is explained in ``TrainConfig``."""

    learning_rate: float = 2e-4
    warmup_steps: int = 3
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 10.0
    pack_tokens: int = 8192
    temperature: float = 1.0
    dtype: Precision = "float32"


class Updater:
    """Optimises a model on samples. Knows nothing of episodes or rollback.

    Args:
        model: a transformers causal language model with float32 weights.
        config: of the optimiser and the loss.
    """

    def __init__(self, model: Any, config: UpdateConfig) -> None:
        self.model = model
        self.config = config
        self.steps = 0
        self._not_finite = 0
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._scaler = torch.amp.GradScaler(
            model.device.type, enabled=config.dtype == "float16" and model.device.type == "cuda"
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to go on exactly here."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "steps": self.steps,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.steps = state["steps"]

    def update(self, minibatches: Sequence[Sequence[Sample]]) -> dict[str, float]:
        """One optimiser update for each minibatch.

        The old log-probabilities are those of the model before the first update, on the purified
        tokens in their purified context. With a single minibatch they are the current ones, so no
        pass is spent on them.

        Returns:
            ``loss`` and ``grad_norm`` (means over updates), ``learning_rate``,
            ``skipped_updates`` (left out, gradients not finite), ``entropy`` (nats),
            ``clipped`` (share of tokens), ``kl`` (to the policy before the step),
            ``trained_tokens`` and ``counted_tokens`` (in the denominator), ``grafted_share``,
            ``grafted_gap`` and ``sampled_gap``: mean |old - sampled log-probability| of grafted and
            of other tokens.

        Raises:
            UserError: the gradients of several updates in a row are not finite.
        """
        packs = [self._packs(samples) for samples in minibatches]
        alone = len(minibatches) == 1
        old = [[None if alone else self._old_logprobs(p) for p in row] for row in packs]
        totals = _Totals(learning_rate=self._learning_rate())
        for samples, row, old_row in zip(minibatches, packs, old, strict=True):
            denominator = sum(sample.counted for sample in samples)
            totals.counted += denominator
            if row:
                self._step(row, old_row, float(denominator), totals)
        self.steps += 1
        return totals.means()

    def _packs(self, samples: Sequence[Sample]) -> list[Pack]:
        """Packs of the samples that have a gradient; the others count in the denominator only."""
        teaching = [sample for sample in samples if sample.teaches]
        return pack(teaching, self.config.pack_tokens, self.model.device)

    @torch.no_grad()
    def _old_logprobs(self, row: Pack) -> Tensor:
        with self._autocast():
            return token_logprobs(self.model, row, self.config.temperature)[0]

    def _step(
        self, row: list[Pack], old: list[Tensor | None], denominator: float, totals: _Totals
    ) -> None:
        """Gradients of all packs added up, then one update."""
        config = self.config
        self.optimizer.zero_grad(set_to_none=True)
        for packed, old_logprobs_T in zip(row, old, strict=True):
            with self._autocast():
                logprobs_T, entropies_T = token_logprobs(self.model, packed, config.temperature)
            before_T = logprobs_T.detach() if old_logprobs_T is None else old_logprobs_T
            loss, metrics = dapo_loss(
                logprobs_T,
                before_T,
                packed.advantages_T,
                packed.mask_T,
                denominator,
                config.clip_low,
                config.clip_high,
                config.dual_clip,
            )
            self._scaler.scale(loss).backward()
            totals.add(packed, loss, metrics, before_T, entropies_T)
        self._scaler.unscale_(self.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip))
        for group in self.optimizer.param_groups:
            group["lr"] = totals.learning_rate
        # The scaler leaves out a step with infinite gradients and lowers its scale.
        if math.isfinite(norm) or self._scaler.is_enabled():
            self._scaler.step(self.optimizer)
        self._scaler.update()
        self._count(norm, totals)

    def _count(self, norm: float, totals: _Totals) -> None:
        """Keep the books of an update, and stop when gradients are not finite again and again."""
        if math.isfinite(norm):
            self._not_finite = 0
            totals.grad_norm += norm
            totals.updates += 1
            return
        totals.skipped += 1
        self._not_finite += 1
        if self._not_finite >= _MAX_NOT_FINITE:
            raise UserError(
                f"the gradients of {self._not_finite} updates in a row were not finite; these "
                "updates were left out. Lower --learning-rate, or use --dtype float32 or bfloat16"
            )

    def _learning_rate(self) -> float:
        warmup = min(1.0, (self.steps + 1) / max(1, self.config.warmup_steps))
        return self.config.learning_rate * warmup

    def _autocast(self) -> AbstractContextManager[object]:
        return autocast(self.model.device, self.config.dtype)


@dataclass(slots=True)
class _Totals:
    """Sums over the packs of a step."""

    learning_rate: float
    loss: float = 0.0
    skipped: int = 0
    grad_norm: float = 0.0
    updates: int = 0
    counted: int = 0
    trained: int = 0
    entropy: float = 0.0
    clipped: float = 0.0
    kl: float = 0.0
    grafted: int = 0
    grafted_gap: float = 0.0
    sampled: int = 0
    sampled_gap: float = 0.0

    def add(
        self,
        packed: Pack,
        loss: Tensor,
        metrics: dict[str, Tensor],
        old_logprobs_T: Tensor,
        entropies_T: Tensor,
    ) -> None:
        mask_T, grafted_T = packed.mask_T, packed.grafted_T
        gap_T = (old_logprobs_T - packed.sampled_logprobs_T).abs()
        self.loss += float(loss.detach())
        self.trained += int(mask_T.sum())
        self.entropy += float((entropies_T * mask_T).sum())
        self.clipped += float(metrics["clipped"])
        self.kl += float(metrics["kl"])
        self.grafted += int((mask_T & grafted_T).sum())
        self.grafted_gap += float((gap_T * (mask_T & grafted_T)).sum())
        self.sampled += int((mask_T & ~grafted_T).sum())
        self.sampled_gap += float((gap_T * (mask_T & ~grafted_T)).sum())

    def means(self) -> dict[str, float]:
        updates, trained = max(1, self.updates), max(1, self.trained)
        return {
            "loss": self.loss / updates,
            "grad_norm": self.grad_norm / updates,
            "learning_rate": self.learning_rate,
            "skipped_updates": float(self.skipped),
            "entropy": self.entropy / trained,
            "clipped": self.clipped / trained,
            "kl": self.kl / trained,
            "trained_tokens": float(self.trained),
            "counted_tokens": float(self.counted),
            "grafted_share": self.grafted / trained,
            "grafted_gap": self.grafted_gap / max(1, self.grafted),
            "sampled_gap": self.sampled_gap / max(1, self.sampled),
        }
