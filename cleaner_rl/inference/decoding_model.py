"""Decoding model: what turns are sampled with."""

from __future__ import annotations

from typing import Any

import torch

from cleaner_rl.distributed.whole_tensors import refresh, sharing_copy, whole_copy
from cleaner_rl.inference.attention import ROWS
from cleaner_rl.models.precision import Precision


class DecodingModel:
    """A copy of the policy's model that attends through ``row_attention``.

    It shares the policy's weights where they have the precision to sample in, and has its own ones
    in half precision otherwise: weights in float32 would be converted anew for every token.

    Args:
        model: a transformers causal language model.
        dtype: precision to sample in.

    Attributes:
        model: what to compute with.
    """

    def __init__(self, model: Any, dtype: Precision) -> None:
        wanted = getattr(torch, dtype)
        self._source = model
        self._shares = all(p.dtype == wanted for p in model.parameters())
        self.model = sharing_copy(model) if self._shares else whole_copy(model, dtype)
        # A model that was switched over for every token would be walked through every time.
        self.model.set_attn_implementation(ROWS)

    def refresh(self) -> None:
        """Take over the policy's weights, which may have changed."""
        if not self._shares:
            refresh(self.model, self._source)
