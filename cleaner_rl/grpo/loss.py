"""Losses: small pure functions that take tensors and return a scalar and its metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cleaner_rl.grpo.samples import Sample
from cleaner_rl.settings import LossName

Weighting = Literal["tokens", "episodes", "budget"]
Metrics = dict[str, Tensor]
MAX_LOG_RATIO = 20.0
"""Upper bound of log-ratios, as in verl. Far above every clip, and far below 88.7, where a single
ratio overflows float32 and the gradient of what a clip cuts off is not a number."""


@dataclass(frozen=True, slots=True)
class LossInputs:
    """What a loss sees of the tokens of a pack.

    Attributes:
        logprobs_T: log-probabilities under the policy, with gradient.
        old_logprobs_T: those of the same tokens in the same context before the update.
        advantages_T: each token's advantage.
        mask_T: True where a token counts.
        weights_T: each token's weight in the sum over tokens, see ``sample_weights``.
        sample_T: the number of each token's sample in the pack.
    """

    logprobs_T: Tensor
    old_logprobs_T: Tensor
    advantages_T: Tensor
    mask_T: Tensor
    weights_T: Tensor
    sample_T: Tensor

    @property
    def log_ratio_T(self) -> Tensor:
        """Logarithm of the ratio between each token's new and old probability."""
        return self.logprobs_T - self.old_logprobs_T

    def mean(self, values_T: Tensor, denominator: float) -> Tensor:
        """Weighted sum over the counted tokens, divided by the minibatch's denominator."""
        return (torch.where(self.mask_T, values_T, 0.0) * self.weights_T).sum() / denominator


@dataclass(frozen=True, slots=True)
class Clip:
    """Bounds on the probability ratio.

    Attributes:
        low: how far it may fall below 1.
        high: how far it may rise above 1.
        dual: bound for negative advantages, above 1 (1912.09729); infinite for none.
    """

    low: float
    high: float
    dual: float = float("inf")


def clipped_loss(tokens: LossInputs, denominator: float, clip: Clip) -> tuple[Tensor, Metrics]:
    """Clipped policy gradient of each token: the loss of grpo, dr_grpo and dapo.

    Per token ``-min(r A, clip(r, 1 - low, 1 + high) A)`` with ``r = exp(logprob - old)``; where A
    is negative, never more than ``-c A`` (dual clip). The three differ in weights and denominator.
    GRPO (2402.03300) takes the mean over the tokens of an episode and then over episodes. Dr. GRPO
    (2503.20783) divides the sum over all tokens by the number of episodes times their token budget,
    and does not divide advantages by the standard deviation. DAPO (2503.14476) takes the mean over
    all tokens of the minibatch, with a higher upper clip.

    The denominator is that of the whole minibatch, so that the gradients of packs add up to those
    of one batch. The metrics are the numbers of tokens whose ratio was ``clipped`` and whose
    log-ratio exceeded ``MAX_LOG_RATIO``.
    """
    return _clipped(tokens, tokens.log_ratio_T, denominator, clip)


def gspo_loss(tokens: LossInputs, denominator: float, clip: Clip) -> tuple[Tensor, Metrics]:
    """Like ``clipped_loss``, with one ratio for a whole sample: GSPO (2507.18071).

    ``s = exp(mean over the sample's tokens of (logprob - old))``, clipped for all tokens or none.
    Under some credit rules the tokens of a sample differ in advantage, so this is the paper's
    GSPO-token: its value is ``s``, its gradient ``s`` times that of the token's own
    log-probability. With a single advantage per sample it equals GSPO.
    """
    log_ratio_T = torch.where(tokens.mask_T, tokens.log_ratio_T.detach(), 0.0)
    zeros_S = log_ratio_T.new_zeros(int(tokens.sample_T.max()) + 1)
    count_S = zeros_S.index_add(0, tokens.sample_T, tokens.mask_T.to(zeros_S.dtype))
    sums_S = zeros_S.index_add(0, tokens.sample_T, log_ratio_T)
    mean_T = (sums_S / count_S.clamp(min=1))[tokens.sample_T]
    log_ratio_T = mean_T + tokens.logprobs_T - tokens.logprobs_T.detach()
    return _clipped(tokens, log_ratio_T, denominator, clip)


def cispo_loss(tokens: LossInputs, denominator: float, clip: Clip) -> tuple[Tensor, Metrics]:
    """Policy gradient with a clipped, constant importance weight: CISPO (MiniMax-M1, 2506.13585).

    Per token ``-sg(clip(r, 1 - low, 1 + high)) A logprob``: clipping bounds a token's weight but
    never removes its gradient. The mean is over all tokens of the minibatch.
    """
    log_ratio_T = tokens.log_ratio_T.detach()
    ratio_T = _bounded(log_ratio_T).exp()
    weight_T = ratio_T.clamp(1 - clip.low, 1 + clip.high)
    loss = -tokens.mean(weight_T * tokens.advantages_T * tokens.logprobs_T, denominator)
    return loss, _counts(tokens, weight_T != ratio_T, log_ratio_T)


def _clipped(
    tokens: LossInputs, log_ratio_T: Tensor, denominator: float, clip: Clip
) -> tuple[Tensor, Metrics]:
    advantages_T, ratio_T = tokens.advantages_T, _bounded(log_ratio_T).exp()
    plain_T = ratio_T * advantages_T
    cut_T = ratio_T.clamp(1 - clip.low, 1 + clip.high) * advantages_T
    gain_T = torch.minimum(plain_T, cut_T)
    if clip.dual != float("inf"):
        bound_T = gain_T.maximum(clip.dual * advantages_T)
        gain_T = torch.where(advantages_T < 0, bound_T, gain_T)
    loss = -tokens.mean(gain_T, denominator)
    return loss, _counts(tokens, gain_T != plain_T, log_ratio_T)


def _counts(tokens: LossInputs, clipped_T: Tensor, log_ratio_T: Tensor) -> Metrics:
    bounded_T = log_ratio_T > MAX_LOG_RATIO
    counted = {"clipped": clipped_T, "ratios_bounded": bounded_T}
    return {name: (chosen_T & tokens.mask_T).sum() for name, chosen_T in counted.items()}


def _bounded(log_ratio_T: Tensor) -> Tensor:
    """At most ``MAX_LOG_RATIO``; numbers that are not finite stay, and the update is skipped."""
    bounded_T = log_ratio_T.clamp(max=MAX_LOG_RATIO)
    return torch.where(log_ratio_T.isfinite(), bounded_T, log_ratio_T)


def kl_estimate(logprobs_T: Tensor, other_logprobs_T: Tensor) -> Tensor:
    """Estimate KL(policy || other), in nats, from each token that the policy sampled.

    ``exp(d) - d - 1`` with ``d = other - logprob`` is unbiased and never negative. Schulman's note
    on approximating the KL divergence calls it k3; it is the KL term of GRPO (2402.03300).
    """
    difference_T = _bounded(other_logprobs_T - logprobs_T)
    return difference_T.exp() - difference_T - 1


def importance_weights(
    old_logprobs_T: Tensor, sampled_logprobs_T: Tensor, grafted_T: Tensor, cap: float
) -> Tensor:
    """Truncated importance weights ``min(exp(old - sampled), cap)``, which multiply advantages.

    They correct for a sampler whose probabilities differ from the trainer's in precision or kernels
    (Yao et al., "Your efficient RL framework secretly brings you off-policy RL training", 2025).
    Grafted tokens differ because they were sampled in another context, so their weight is 1.
    """
    weights_T = (old_logprobs_T - sampled_logprobs_T).exp().clamp(max=cap)
    return torch.where(grafted_T, 1.0, weights_T)


def sample_weights(
    samples: Sequence[Sample], weighting: Weighting, budget: int
) -> tuple[list[float], float]:
    """The weight of a token, for each sample, and the minibatch's denominator.

    Args:
        samples: all samples of a minibatch, those without an advantage included.
        weighting: ``tokens`` gives each token the weight 1 and divides by the number of tokens;
            ``episodes`` gives it 1 / tokens of its episode and divides by the number of episodes
            with any; ``budget`` gives it 1 / budget and divides by the number of episodes.
        budget: the most tokens that an episode may have.
    """
    if weighting == "tokens":
        return [1.0] * len(samples), float(sum(sample.counted for sample in samples))
    tokens: Counter[int] = Counter()
    numbers = [-1 - i if s.episode is None else s.episode for i, s in enumerate(samples)]
    for number, sample in zip(numbers, samples, strict=True):
        tokens[number] += sample.counted
    if weighting == "budget":
        return [1.0 / budget] * len(samples), float(len(tokens))
    return [1.0 / max(1, tokens[n]) for n in numbers], float(sum(n > 0 for n in tokens.values()))


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss function with the weighting, clipping and advantages of its paper.

    Attributes:
        dual: whether ``--dual-clip`` applies.
        scaled: whether advantages are divided by their group's standard deviation.
    """

    function: Callable[[LossInputs, float, Clip], tuple[Tensor, Metrics]]
    weighting: Weighting
    low: float
    high: float
    dual: bool
    scaled: bool = True

    def clip(self, low: float | None, high: float | None, dual: float) -> Clip:
        """The user's bounds, or the loss's own where these are None."""
        return Clip(
            self.low if low is None else low,
            self.high if high is None else high,
            dual if self.dual else float("inf"),
        )


LOSSES: dict[LossName, Loss] = {
    "grpo": Loss(clipped_loss, "episodes", 0.2, 0.2, dual=True),
    "dr_grpo": Loss(clipped_loss, "budget", 0.2, 0.2, dual=True, scaled=False),
    "dapo": Loss(clipped_loss, "tokens", 0.2, 0.28, dual=True),
    "gspo": Loss(gspo_loss, "episodes", 3e-4, 4e-4, dual=False),
    # The CISPO paper sets no lower bound and does not state its upper one; ours clips ratios at 5.
    "cispo": Loss(cispo_loss, "tokens", 1.0, 4.0, dual=False),
}
