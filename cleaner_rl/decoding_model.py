"""Decoding model: what turns are sampled with."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from cleaner_rl.precision import Precision


class DecodingModel:
    """The policy's model, or a copy of it in half precision.

    Weights in float32 would be read, and converted, anew for every token.

    Args:
        model: a transformers causal language model.
        dtype: precision to sample in.

    Attributes:
        model: what to compute with.
    """

    def __init__(self, model: Any, dtype: Precision) -> None:
        self._source = model
        wanted = getattr(torch, dtype)
        self.model = model
        if any(p.dtype != wanted for p in model.parameters()):
            # Buffers, such as the frequencies of rotary embeddings, keep their precision.
            copies = {
                id(p): nn.Parameter(p.detach().to(wanted, copy=True), requires_grad=False)
                for p in model.parameters()
            }
            self.model = copy.deepcopy(model, copies)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the policy's weights, which may have changed."""
        if self.model is not self._source:
            for mine, theirs in zip(
                self.model.parameters(), self._source.parameters(), strict=True
            ):
                mine.copy_(theirs)
