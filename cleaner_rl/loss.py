"""Losses: small pure functions, tensors in, a scalar and its metrics out."""

from __future__ import annotations

import torch
from torch import Tensor


def dapo_loss(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    mask_T: Tensor,
    denominator: float,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 10.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped policy-gradient loss with a higher upper clip, mean over all tokens of the batch.

    Per token ``-min(r A, clip(r, 1 - low, 1 + high) A)`` with ``r = exp(logprob - old)``; where A
    is negative, never more than ``-c A`` (dual clip). Sources: DAPO (2503.14476) for the
    asymmetric clip and the token mean, 1912.09729 for the dual clip.

    Args:
        logprobs_T: of the tokens under the policy, with gradient.
        old_logprobs_T: of the same tokens in the same context, before the update.
        advantages_T: of each token.
        mask_T: True where a token counts.
        denominator: counted tokens in the whole minibatch, not in this pack alone, so that the
            gradients of packs add up to that of one batch.
        clip_low: how far the ratio may fall below 1.
        clip_high: how far it may rise above 1.
        dual_clip: bound on the ratio where the advantage is negative; above 1.

    Returns:
        The loss, without tokens whose numbers are not finite, and sums over counted tokens:
        ``clipped`` (tokens whose ratio was cut) and ``kl`` (an estimate of KL(old || new), nats).
    """
    mask_T = mask_T & logprobs_T.isfinite() & old_logprobs_T.isfinite()
    log_ratio_T = torch.where(mask_T, logprobs_T - old_logprobs_T, 0.0)
    ratio_T = log_ratio_T.exp()
    plain_T = ratio_T * advantages_T
    cut_T = ratio_T.clamp(1 - clip_low, 1 + clip_high) * advantages_T
    gain_T = torch.minimum(plain_T, cut_T)
    gain_T = torch.where(advantages_T < 0, gain_T.maximum(dual_clip * advantages_T), gain_T)
    loss = -(gain_T * mask_T).sum() / denominator
    with torch.no_grad():
        metrics = {
            "clipped": ((gain_T != plain_T) & mask_T).sum(),
            "kl": ((ratio_T - 1 - log_ratio_T) * mask_T).sum(),
        }
    return loss, metrics
