"""Update: one step's samples turned into optimiser updates of the policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cleaner_rl.attention import packed
from cleaner_rl.errors import UserError
from cleaner_rl.logprobs import token_logprobs
from cleaner_rl.lora import adapter_state, adapters_off, has_lora, load_adapter_state
from cleaner_rl.loss import (
    LOSSES,
    LossName,
    Tokens,
    importance_weights,
    kl_estimate,
    sample_weights,
)
from cleaner_rl.optimizer import Optimizer, layers_recomputed
from cleaner_rl.packing import Pack, pack
from cleaner_rl.precision import Precision, autocast
from cleaner_rl.samples import Sample
from cleaner_rl.update_metrics import UpdateMetrics

_MAX_NOT_FINITE = 5
"""Updates in a row whose gradients may be not finite (float16 finds its scale that way)."""
_MAX_DROPPED = 0.01
"""Share of a step's trained tokens whose numbers may be not finite."""


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    """Settings of the optimiser and the loss; each is explained in ``TrainConfig``."""

    learning_rate: float = 2e-4
    warmup_steps: int = 3
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    loss: LossName = "dapo"
    clip_low: float | None = None
    clip_high: float | None = None
    dual_clip: float = 10.0
    kl_coefficient: float = 0.0
    tis_cap: float = 0.0
    max_response_tokens: int = 512
    pack_tokens: int = 8192
    gradient_checkpointing: bool = False
    temperature: float = 1.0
    dtype: Precision = "float32"


@dataclass(frozen=True, slots=True)
class _Minibatch:
    """Packs of one update, with the log-probabilities that are fixed before the first."""

    packs: list[Pack]
    old: list[Tensor | None]
    reference: list[Tensor | None]
    denominator: float
    counted: int


class Updater:
    """Optimises a model on samples. Knows nothing of episodes or rollback.

    Args:
        model: a transformers causal language model with float32 weights. Parameters without
            ``requires_grad`` stay as they are.
        config: of the optimiser and the loss.
        reference: the policy that ``kl_coefficient`` holds on to; None for a model with LoRA, which
            is its own reference with the adapters off.

    Raises:
        ValueError: there is a KL term and no reference.
    """

    def __init__(self, model: Any, config: UpdateConfig, reference: Any = None) -> None:
        if config.kl_coefficient > 0 and reference is None and not has_lora(model):
            raise ValueError("kl_coefficient above 0 needs a reference model")
        self.model = model
        self.config = config
        self.reference = reference
        self.steps = 0
        self._not_finite = 0
        self._dropped = 0.0
        self.optimizer = Optimizer(
            model,
            config.learning_rate,
            config.weight_decay,
            config.grad_clip,
            scaled=config.dtype == "float16",
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to go on exactly here."""
        state = {**self.optimizer.state(), "steps": self.steps}
        if has_lora(self.model):
            state["adapter"] = {n: p.detach() for n, p in adapter_state(self.model).items()}
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        self.optimizer.load_state(state)
        self.steps = state["steps"]
        if has_lora(self.model):
            load_adapter_state(self.model, state["adapter"])

    def update(self, minibatches: Sequence[Sequence[Sample]]) -> dict[str, float]:
        """One optimiser update for each minibatch.

        The old log-probabilities are those of the model before the first update, on the purified
        tokens in their purified context. With a single minibatch they are the current ones, so no
        pass is spent on them.

        Tokens with a number that is not finite leave loss and denominator, and updates whose
        gradients are not finite are left out; ``require_finite`` stops when that is frequent.

        Returns:
            Means over updates or trained tokens; the names are explained in docs/training.md.
        """
        alone = len(minibatches) == 1
        prepared = [self._prepare(samples, alone) for samples in minibatches]
        metrics = UpdateMetrics(self._learning_rate())
        for minibatch in prepared:
            metrics.counted += minibatch.counted
            if minibatch.packs:
                self._step(minibatch, metrics)
        self.steps += 1
        means = metrics.means()
        self._dropped = means["not_finite_tokens"] / max(1.0, means["trained_tokens"])
        return means

    def require_finite(self) -> None:
        """Stop a run that learns from broken numbers. The weights are those of finite updates.

        Raises:
            UserError: the gradients of several updates in a row, or many numbers of the last step,
                were not finite.
        """
        remedy = "Lower --learning-rate, or use --dtype float32 or bfloat16"
        if self._not_finite >= _MAX_NOT_FINITE:
            raise UserError(
                f"the gradients of {self._not_finite} updates in a row were not finite; these "
                f"updates were left out. {remedy}"
            )
        if self._dropped > _MAX_DROPPED:
            raise UserError(
                f"{self._dropped:.1%} of the tokens of step {self.steps} had a log-probability or "
                f"an advantage that is not finite; they were left out of the loss. {remedy}"
            )

    def _prepare(self, samples: Sequence[Sample], alone: bool) -> _Minibatch:
        """Packs of the samples that have a gradient; the others count in the denominator only."""
        config = self.config
        weights, denominator = sample_weights(
            samples, LOSSES[config.loss].weighting, config.max_response_tokens
        )
        held = config.kl_coefficient > 0
        used = [i for i, s in enumerate(samples) if s.teaches or (held and s.counted > 0)]
        packs = pack(
            [samples[i] for i in used],
            config.pack_tokens,
            self.model.device,
            [weights[i] for i in used],
        )
        return _Minibatch(
            packs,
            [None if alone else self._logprobs(p) for p in packs],
            [self._reference_logprobs(p) if held else None for p in packs],
            denominator,
            sum(sample.counted for sample in samples),
        )

    @torch.no_grad()
    def _logprobs(self, row: Pack, model: Any = None) -> Tensor:
        with self._autocast():
            model = self.model if model is None else model
            return token_logprobs(model, row, self.config.temperature, wanted_T=row.mask_T)[0]

    def _reference_logprobs(self, row: Pack) -> Tensor:
        if self.reference is not None:
            return self._logprobs(row, self.reference)
        with adapters_off(self.model):
            return self._logprobs(row)

    def _step(self, minibatch: _Minibatch, metrics: UpdateMetrics) -> None:
        """Gradients of all packs added up, then one update."""
        self.optimizer.zero()
        dropped: list[Tensor] = []
        recomputed = layers_recomputed(self.model, self.config.gradient_checkpointing)
        with packed(self.model), recomputed:
            for row, old_T, reference_T in zip(
                minibatch.packs, minibatch.old, minibatch.reference, strict=True
            ):
                loss, lost = self._loss(row, old_T, reference_T, minibatch.denominator, metrics)
                self.optimizer.backward(loss)
                dropped.append(lost)
        weight_lost = float(torch.stack(dropped).sum())
        if LOSSES[self.config.loss].weighting == "budget":
            weight_lost = 0.0  # its denominator does not count tokens
        left = minibatch.denominator - weight_lost
        factor = minibatch.denominator / left if left > 0 else 0.0
        norm = self.optimizer.step(metrics.learning_rate, factor)
        if math.isfinite(norm):
            self._not_finite = 0
            metrics.grad_norm += norm
            metrics.updates += 1
        else:
            self._not_finite += 1
            metrics.skipped += 1

    def _loss(
        self,
        row: Pack,
        old_logprobs_T: Tensor | None,
        reference_T: Tensor | None,
        denominator: float,
        metrics: UpdateMetrics,
    ) -> tuple[Tensor, Tensor]:
        """The loss of a pack, and the weight of its tokens that are not finite."""
        config = self.config
        with self._autocast():
            logprobs_T, entropies_T = token_logprobs(
                self.model, row, config.temperature, wanted_T=row.mask_T
            )
        before_T = logprobs_T.detach() if old_logprobs_T is None else old_logprobs_T
        advantages_T, sums = row.advantages_T, {}
        if config.tis_cap > 0:
            factor_T = importance_weights(
                before_T, row.sampled_logprobs_T, row.grafted_T, config.tis_cap
            )
            advantages_T = advantages_T * factor_T
        tokens = Tokens.of(
            logprobs_T,
            before_T,
            advantages_T,
            row.mask_T,
            row.weights_T,
            row.sample_T,
            () if reference_T is None else (reference_T,),
        )
        rule = LOSSES[config.loss]
        clip = rule.clip(config.clip_low, config.clip_high, config.dual_clip)
        loss, counts = rule.function(tokens, denominator, clip)
        sums.update(counts)
        if reference_T is not None:
            kl_T = kl_estimate(tokens.logprobs_T, torch.where(tokens.mask_T, reference_T, 0.0))
            loss = loss + config.kl_coefficient * tokens.mean(kl_T, denominator)
            sums["reference_kl"] = (kl_T.detach() * tokens.mask_T).sum()
        if config.tis_cap > 0:
            sums["importance"] = torch.where(tokens.mask_T, factor_T, 0.0).sum()
            sums["capped"] = (tokens.mask_T & (factor_T >= config.tis_cap)).sum()
        sums["kl"] = kl_estimate(tokens.old_logprobs_T, tokens.logprobs_T.detach()).sum()
        metrics.add(row, tokens.mask_T, loss, sums, before_T, entropies_T)
        lost = (row.weights_T * (row.mask_T & ~tokens.mask_T)).sum()
        return loss, lost

    def _learning_rate(self) -> float:
        warmup = min(1.0, (self.steps + 1) / max(1, self.config.warmup_steps))
        return self.config.learning_rate * warmup

    def _autocast(self) -> AbstractContextManager[object]:
        return autocast(self.model.device, self.config.dtype)
