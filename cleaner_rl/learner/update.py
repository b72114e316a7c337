"""Update: turns the samples of a step into optimiser updates of the policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.errors import UserError
from cleaner_rl.grpo.loss import LOSSES, LossInputs, importance_weights, kl_estimate, sample_weights
from cleaner_rl.grpo.samples import Sample
from cleaner_rl.learner.attention import packed
from cleaner_rl.learner.logprobs import token_logprobs
from cleaner_rl.learner.metrics import ENTROPY, UpdateMetrics, row_sums
from cleaner_rl.learner.optimizer import Optimizer, layers_recomputed
from cleaner_rl.learner.packing import Pack, pack
from cleaner_rl.models.backends import autocast
from cleaner_rl.models.lora import adapter_state, adapters_off, has_lora
from cleaner_rl.settings import Precision, UpdateConfig

_MAX_SKIPPED = 5
"""Skipped updates in a row that end a run; float16 needs a few to find its scale."""

Row = tuple[Pack, Tensor | None, Tensor | None]
"""A pack; its log-probabilities before the step, None if they equal those of the pass itself; and
those under the reference policy of a KL term, None without one."""

See = Callable[[Pack, Tensor, Tensor], None]
"""Is shown each row with the log-probabilities and entropies that its tokens have before a step."""


@dataclass(frozen=True, slots=True)
class _Minibatch:
    """What one update is computed from.

    Attributes:
        rows: this rank's rows; every rank has the same number.
        denominator: the loss's denominator, over all ranks.
        counted: the number of tokens that count, over all ranks.
    """

    rows: list[Row]
    denominator: float
    counted: int


class Updater:
    """Optimises a model on samples. Knows nothing of episodes or rollback.

    Args:
        model: a transformers causal language model with float32 weights. Parameters without
            ``requires_grad`` do not change.
        reference: the reference policy of the KL term; None for a model with LoRA, which is its own
            reference with the adapters off.
        ranks: the ranks, each with a part of the model and of the samples; one process by default.
        budget: the most tokens of an episode after its prompt, for ``dr_grpo``.
        dtype: precision of the passes.

    Attributes:
        between_steps: False from the first to the last update of a step, while the weights belong
            to no finished step.
    """

    def __init__(
        self,
        model: Any,
        config: UpdateConfig,
        reference: Any = None,
        ranks: Ranks | None = None,
        *,
        temperature: float = 1.0,
        budget: int = 512,
        dtype: Precision = "float32",
    ) -> None:
        if config.kl_coefficient > 0 and reference is None and not has_lora(model):
            raise ValueError("kl_coefficient above 0 needs a reference model")
        self.model = model
        self.config = config
        self.temperature = temperature
        self.budget = budget
        self.dtype = dtype
        self.reference = reference
        self.ranks = ranks or Ranks()
        self.steps = 0
        self.between_steps = True
        self._skipped_in_a_row = 0
        self.optimizer = Optimizer(
            model,
            config.learning_rate,
            config.weight_decay,
            config.grad_clip,
            scaled=dtype == "float16",
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs in addition to the weights and ``tensors``: plain numbers."""
        return {**self.optimizer.state(), "steps": self.steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a ``state``; the ``tensors`` have to be filled afterwards."""
        self.optimizer.load_state(state)
        self.steps = state["steps"]

    def tensors(self) -> dict[str, Tensor]:
        """LoRA adapters and optimiser moments by name: the tensors themselves, sharded like the
        model."""
        adapters = {name: p.detach() for name, p in adapter_state(self.model).items()}
        return adapters | self.optimizer.moments()

    def update(
        self, minibatches: Sequence[Sequence[Sample]], see: See = lambda *_: None
    ) -> dict[str, float]:
        """Make one optimiser update for each minibatch.

        The old log-probabilities are those of the model before the first update, on the purified
        tokens in their purified context. With a single minibatch these equal the current ones, so
        they need no pass. An update in which a number is not finite is skipped on all ranks.

        Args:
            minibatches: this rank's samples of each; every rank has the same number of minibatches.
            see: is shown the values that are computed anyway; see ``See``.

        Returns:
            Means over updates or trained tokens; docs/training-reference.md explains the names.
        """
        alone = len(minibatches) == 1
        self._see = see
        prepared = [self._prepare(samples, alone) for samples in minibatches]
        warmup = min(1.0, (self.steps + 1) / max(1, self.config.warmup_steps))
        metrics = UpdateMetrics(self.config.learning_rate * warmup)
        for minibatch in prepared:
            metrics.counted += minibatch.counted
            if minibatch.rows:
                self._step(minibatch, metrics)
        self.steps += 1
        self.between_steps = True
        return metrics.means(self.ranks)

    def require_finite(self) -> None:
        """Stop a run whose numbers are broken. The weights come from finite updates only."""
        if self._skipped_in_a_row >= _MAX_SKIPPED:
            raise UserError(
                f"{self._skipped_in_a_row} updates in a row were not finite and have been skipped; "
                "lower --learning-rate, or use --dtype float32 or bfloat16"
            )

    def _prepare(self, samples: Sequence[Sample], alone: bool) -> _Minibatch:
        """Pack the samples that have a gradient; the others count only in the denominator."""
        config = self.config
        weights, denominator = sample_weights(samples, LOSSES[config.loss].weighting, self.budget)
        held = config.kl_coefficient > 0
        used = [i for i, s in enumerate(samples) if s.has_signal or (held and s.counted > 0)]
        packs = pack(
            [samples[i] for i in used],
            config.pack_tokens,
            self.model.device,
            [weights[i] for i in used],
            config.share_prefixes,
        )
        idle = self.ranks.max(len(packs)) - len(packs)
        packs += [Pack.idle(self.model.device) for _ in range(idle)]
        counted = sum(sample.counted for sample in samples)
        denominator, counted_by_all = self.ranks.sum([denominator, counted])
        rows: list[Row] = []
        with torch.no_grad():
            for row in packs:
                old_T = None
                if not alone:
                    old_T, entropies_T = self._logprobs(row)
                    self._see(row, old_T, entropies_T)
                rows.append((row, old_T, self._reference_logprobs(row) if held else None))
        return _Minibatch(rows, denominator, int(counted_by_all))

    def _logprobs(self, row: Pack, model: Any = None) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of the tokens that count; 0 for the others."""
        with autocast(self.model.device, self.dtype):
            return token_logprobs(model or self.model, row, self.temperature, wanted_T=row.mask_T)

    def _reference_logprobs(self, row: Pack) -> Tensor:
        if self.reference is not None:
            return self._logprobs(row, self.reference)[0]
        with adapters_off(self.model):
            return self._logprobs(row)[0]

    def _step(self, minibatch: _Minibatch, metrics: UpdateMetrics) -> None:
        """Sum the gradients of all rows, then update once, or not if a number is not finite."""
        self.optimizer.zero()
        of_rows: list[Tensor] = []
        recomputed = layers_recomputed(self.model, self.config.gradient_checkpointing)
        with packed(self.model), recomputed:
            for row in minibatch.rows:
                loss, sums = self._loss(*row, minibatch.denominator)
                self.optimizer.backward(loss)
                of_rows.append(sums)
        total = torch.stack(of_rows).sum(0)
        self.between_steps = False
        broken = ~total.isfinite()
        broken[ENTROPY] = False  # logits of -inf make the entropy NaN, and nothing else
        # Gradients and their norm are those of all ranks; only the sums are this rank's own.
        finite = self.ranks.max(int(broken.any())) == 0
        norm = self.optimizer.step(metrics.learning_rate) if finite else math.nan
        if math.isfinite(norm):
            self._skipped_in_a_row = 0
            metrics.add(total, norm)
        else:
            self._skipped_in_a_row += 1
            metrics.skipped += 1

    def _loss(
        self, row: Pack, old_T: Tensor | None, reference_T: Tensor | None, denominator: float
    ) -> tuple[Tensor, Tensor]:
        """The loss of a row, and its sums for the metrics."""
        config, rule = self.config, LOSSES[self.config.loss]
        logprobs_T, entropies_T = self._logprobs(row)
        if old_T is None:
            old_T = logprobs_T.detach()
            self._see(row, old_T, entropies_T)
        advantages_T, sums = row.advantages_T, {}
        if config.tis_cap > 0:
            factor_T = importance_weights(
                old_T, row.sampled_logprobs_T, row.grafted_T, config.tis_cap
            )
            advantages_T = advantages_T * factor_T
            sums["importance"] = torch.where(row.mask_T, factor_T, 0.0).sum()
            sums["capped"] = (row.mask_T & (factor_T >= config.tis_cap)).sum()
        tokens = LossInputs(
            logprobs_T, old_T, advantages_T, row.mask_T, row.weights_T, row.sample_T
        )
        clip = rule.clip(config.clip_low, config.clip_high, config.dual_clip)
        loss, counts = rule.function(tokens, denominator, clip)
        if reference_T is not None:
            kl_T = kl_estimate(logprobs_T, reference_T)
            loss = loss + config.kl_coefficient * tokens.mean(kl_T, denominator)
            sums["reference_kl"] = kl_T.detach().sum()
        return loss, row_sums(row, loss, tokens, entropies_T, {**counts, **sums})
