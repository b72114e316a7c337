"""Decoding model: what turns are sampled with."""

from __future__ import annotations

from typing import Any

import torch

from cleaner_rl.precision import Precision
from cleaner_rl.whole_tensors import refresh, whole_copy


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
        wanted = getattr(torch, dtype)
        self._source = self.model = model
        if any(p.dtype != wanted for p in model.parameters()):
            self.model = whole_copy(model, dtype)

    def refresh(self) -> None:
        """Take over the policy's weights, which may have changed."""
        if self.model is not self._source:
            refresh(self.model, self._source)
