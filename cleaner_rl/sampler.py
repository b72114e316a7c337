"""Sampler: the policy's next turn for many conversations at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from cleaner_env.completion import Completion
from cleaner_rl.policy import Policy
from cleaner_rl.precision import Precision, autocast

_COMPACT_AT = 0.75
"""Finished rows leave the batch when no more than this share of it is still sampling."""


@dataclass(slots=True)
class _Row:
    """One conversation of a batch."""

    index: int
    limit: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False

    @property
    def done(self) -> bool:
        return self.stopped or len(self.ids) >= self.limit


class Sampler:
    """Batched sampling with a key-value cache.

    Args:
        policy: model, tokenizer and codec.
        temperature: the logits are divided by it; above 0.
        top_p: sample from the smallest set of tokens with at least this probability.
        max_batch: conversations decoded together.
        seed: of the random stream.
        dtype: precision of the forward passes.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        policy: Policy,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_batch: int = 128,
        seed: int = 0,
        dtype: Precision = "float32",
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], not {top_p}")
        self.policy = policy
        self.temperature = temperature
        self.top_p = top_p
        self.max_batch = max_batch
        self.dtype = dtype
        self._generator = torch.Generator(device=policy.device)
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Restart the random stream: the same seed and the same calls give the same tokens."""
        self._generator.manual_seed(seed)

    @torch.inference_mode()
    def sample(self, contexts: Sequence[Sequence[int]], limits: Sequence[int]) -> list[Completion]:
        """One turn for each conversation.

        Args:
            contexts: token ids that each turn continues.
            limits: most tokens that each turn may have, end of turn included; at least 1.

        Returns:
            The turns, in order, with ids and log-probabilities (at this temperature, before top-p);
            ``truncated`` where the limit came before the end of turn.
        """
        order = sorted(range(len(contexts)), key=lambda i: len(contexts[i]))
        rows = [_Row(i, limits[i]) for i in order]
        for start in range(0, len(rows), self.max_batch):
            with autocast(self.policy.device, self.dtype):
                self._decode(rows[start : start + self.max_batch], contexts)
        by_index = {row.index: self._completion(row) for row in rows}
        return [by_index[i] for i in range(len(contexts))]

    def _decode(self, rows: list[_Row], contexts: Sequence[Sequence[int]]) -> None:
        model, device = self.policy.model, self.policy.device
        cache = DynamicCache(config=model.config)
        ids_BT, mask_BT = _left_pad([contexts[row.index] for row in rows], device)
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        while True:
            logits_BV = model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=positions_BT,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            ids_B = self._draw(logits_BV, rows)
            going = [i for i, row in enumerate(rows) if not row.done]
            if not going:
                return
            positions_BT = positions_BT[:, -1:] + 1
            if len(going) <= _COMPACT_AT * len(rows):
                keep = torch.tensor(going, device=device)
                cache.batch_select_indices(keep)
                mask_BT, positions_BT, ids_B = mask_BT[keep], positions_BT[keep], ids_B[keep]
                rows = [rows[i] for i in going]
            ids_BT = ids_B[:, None]
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(rows), 1)], dim=1)

    def _draw(self, logits_BV: Tensor, rows: list[_Row]) -> Tensor:
        """Sample a token for every row, and note it in those that are not done."""
        logprobs_BV = torch.log_softmax(logits_BV.float() / self.temperature, dim=-1)
        ids_B = torch.multinomial(
            _nucleus(logprobs_BV.exp(), self.top_p), 1, generator=self._generator
        ).squeeze(1)
        drawn = zip(
            rows, ids_B.tolist(), logprobs_BV.gather(1, ids_B[:, None])[:, 0].tolist(), strict=True
        )
        for row, token, logprob in drawn:
            if not row.done:
                row.ids.append(token)
                row.logprobs.append(logprob)
                row.stopped = token in self.policy.codec.stop_ids
        return ids_B

    def _completion(self, row: _Row) -> Completion:
        return Completion.from_tokens(
            row.ids,
            row.logprobs,
            self.policy.decode,
            stop_length=int(row.stopped),
            truncated=not row.stopped,
        )


def _nucleus(probabilities_BV: Tensor, top_p: float) -> Tensor:
    """Probabilities with those outside the smallest set of mass ``top_p`` set to zero."""
    if top_p >= 1:
        return probabilities_BV
    ordered_BV, index_BV = probabilities_BV.sort(dim=-1, descending=True)
    outside_BV = ordered_BV.cumsum(-1) - ordered_BV >= top_p
    return torch.zeros_like(ordered_BV).scatter(1, index_BV, ordered_BV.masked_fill(outside_BV, 0))


def _left_pad(contexts: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, T], contexts at the right. The mask tells padding, never the ids."""
    length = max(len(context) for context in contexts)
    ids = torch.zeros(len(contexts), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, context in enumerate(contexts):
        ids[i, length - len(context) :] = torch.tensor(context)
        mask[i, length - len(context) :] = 1
    return ids.to(device), mask.to(device)
