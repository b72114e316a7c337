"""Log-probability kernel: log-probability and entropy in one pass over the logits, in Triton.

The plain formulas read and write several float32 tensors of the logits' size, which for a small
model takes as long as the model itself. The running maximum and sum are those of online softmax
(Milakov and Gimelshein, 2018).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    logits, ids, logprobs, entropies, logsumexps, stride, vocabulary, scale, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    highest = -float("inf")
    total = 0.0
    weighted = 0.0
    for block in range(0, vocabulary, BLOCK):
        v = block + tl.arange(0, BLOCK)
        x = tl.load(logits + row * stride + v, mask=v < vocabulary, other=-float("inf"))
        x = x.to(tl.float32) * scale
        higher = tl.maximum(highest, tl.max(x, 0))
        shares = tl.exp(x - higher)
        shrink = tl.exp(highest - higher)
        total = total * shrink + tl.sum(shares, 0)
        weighted = weighted * shrink + tl.sum(tl.where(shares > 0, shares * x, 0.0), 0)
        highest = higher
    logsumexp = highest + tl.log(total)
    at = tl.load(logits + row * stride + tl.load(ids + row)).to(tl.float32) * scale
    tl.store(logprobs + row, at - logsumexp)
    tl.store(entropies + row, logsumexp - weighted / total)
    tl.store(logsumexps + row, logsumexp)


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    logits, ids, logsumexps, gradients, stride, vocabulary, scale, BLOCK: tl.constexpr
):
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    v = block * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + row * stride + v, mask=v < vocabulary, other=-float("inf"))
    shares = tl.exp(x.to(tl.float32) * scale - tl.load(logsumexps + row))
    own = tl.where(v == tl.load(ids + row), 1.0, 0.0)
    gradient = (own - shares) * tl.load(gradients + row) * scale
    tl.store(logits + row * stride + v, gradient.to(logits.dtype.element_ty), mask=v < vocabulary)


def logprobs_of(
    logits_NV: Tensor, ids_N: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of each row's id, entropy, and log-sum-exp, in float32, of logits divided by
    the temperature. ``logits_NV`` must be contiguous along V, ``ids_N`` int64."""
    out = torch.empty(3, len(ids_N), dtype=torch.float32, device=logits_NV.device)
    if len(ids_N):
        _forward[(len(ids_N),)](
            *(logits_NV, ids_N, out[0], out[1], out[2], logits_NV.stride(0)),
            *(logits_NV.shape[1], 1.0 / temperature),
            BLOCK=_BLOCK,
            num_warps=8,
        )
    return out[0], out[1], out[2]


def gradient_in_place(
    logits_NV: Tensor, ids_N: Tensor, logsumexps_N: Tensor, grad_N: Tensor, temperature: float
) -> Tensor:
    """Overwrite the logits with their gradient, given that of the log-probabilities."""
    if len(ids_N):
        _backward[(len(ids_N), triton.cdiv(logits_NV.shape[1], _BLOCK))](
            *(logits_NV, ids_N, logsumexps_N, grad_N.contiguous(), logits_NV.stride(0)),
            *(logits_NV.shape[1], 1.0 / temperature),
            BLOCK=_BLOCK,
            num_warps=8,
        )
    return logits_NV
