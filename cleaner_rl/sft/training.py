"""Training on demonstrations: the loss on the assistant's tokens, and a loop that can resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cleaner_rl.distributed.interrupt import Interrupt
from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.errors import CheckpointError
from cleaner_rl.learner.optimizer import adam_moments, adam_steps, start_adam
from cleaner_rl.models.backends import autocast
from cleaner_rl.models.policy import Policy, load_policy
from cleaner_rl.runs.checkpoint import load_state, load_tensors, save_checkpoint
from cleaner_rl.runs.files import restore_replaced
from cleaner_rl.settings import Precision
from cleaner_rl.sft.demonstrations.examples import IGNORED, Example, collate


def assistant_loss(model: Any, ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
    """Mean cross-entropy of the assistant's tokens, each given everything before it.

    Padding is on the right, where causal attention never sees it, so no attention mask is needed.
    Logits are computed at the trained positions only.
    """
    hidden_BTD = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1]
    targets_BT = labels_BT[:, 1:]
    chosen_BT = targets_BT != IGNORED
    logits_TV = model.get_output_embeddings()(hidden_BTD[chosen_BT])
    return F.cross_entropy(logits_TV.float(), targets_BT[chosen_BT])


_SAVE_SECONDS = 600.0
"""Seconds between two checkpoints of a training."""


@dataclass
class Partial:
    """The checkpoint of an unfinished training, next to its output. It can be resumed with the same
    settings only."""

    directory: Path
    settings: Mapping[str, Any]

    @property
    def exists(self) -> bool:
        """Whether there is something to resume."""
        restore_replaced(self.directory)
        return self.directory.is_dir()

    def save(self, policy: Policy, adamw: torch.optim.AdamW, step: int, loss: float) -> None:
        """Write the state after a step, completely or not at all."""
        named = dict(policy.model.named_parameters())
        state = {"settings": self.settings, "step": step, "loss": loss}
        state |= {"adam_steps": adam_steps(adamw, named)}
        tensors = adam_moments(adamw, named)
        save_checkpoint(self.directory, policy, policy.model, tensors, state, Ranks())

    def load(self, policy: Policy, adamw: torch.optim.AdamW) -> tuple[int, float]:
        """Load the state into policy and optimizer; return the steps done and the loss then."""
        try:
            state = load_state(self.directory)
        except CheckpointError as error:
            message = f"{error}; start again with --overwrite instead of --resume"
            raise CheckpointError(message) from error
        known, mine = state["settings"], json.loads(json.dumps(self.settings))
        changed = sorted(name for name in mine if known.get(name) != mine[name])
        if changed:
            flags = ", ".join("--" + name.replace("_", "-") for name in changed)
            raise CheckpointError(
                f"the training in {self.directory} has other settings: {flags}; give the same, or "
                "start again with --overwrite instead of --resume"
            )
        saved = load_policy(str(self.directory), str(policy.device))
        policy.model.load_state_dict(saved.model.state_dict())
        named = dict(policy.model.named_parameters())
        start_adam(adamw, named, state["adam_steps"])
        load_tensors(self.directory, adam_moments(adamw, named))
        return int(state["step"]), float(state["loss"])


def train_on_examples(
    policy: Policy,
    batches: Sequence[Sequence[Example]],
    *,
    learning_rate: float,
    weight_decay: float,
    dtype: Precision = "float32",
    report: Callable[[int, float], None] = lambda step, loss: None,
    partial: Partial | None = None,
) -> float:
    """Take one AdamW step per batch, with warm-up and cosine decay; return the last smoothed loss.

    ``report`` is called with the number of each finished step and the smoothed loss. ``partial`` is
    resumed if it exists, and saves finished steps, even when a signal raises KeyboardInterrupt.
    """
    model = policy.model
    # Weight decay applies to matrices, not to vectors.
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)
    done, smoothed = 0, math.nan
    if partial is not None and partial.exists:
        done, smoothed = partial.load(policy, optimizer)
    saved = time.monotonic()
    model.train()
    with Interrupt("stopping: the training so far is saved" if partial else "") as interrupt:
        try:
            for step in range(done, len(batches)):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * _schedule(step, len(batches))
                ids_BT, labels_BT = (part.to(model.device) for part in collate(batches[step]))
                with autocast(model.device, dtype):
                    loss = assistant_loss(model, ids_BT, labels_BT)
                with interrupt.protected():
                    loss.backward()
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    value = loss.item()
                    smoothed = value if math.isnan(smoothed) else 0.95 * smoothed + 0.05 * value
                    done = step + 1
                report(done, smoothed)
                if partial is not None and time.monotonic() - saved > _SAVE_SECONDS:
                    partial.save(policy, optimizer, done, smoothed)
                    saved = time.monotonic()
        except KeyboardInterrupt:
            if partial is not None and done:
                with interrupt.protected():
                    partial.save(policy, optimizer, done, smoothed)
            raise
    return smoothed


def _schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate: warm-up over 1/20 of the steps, then cosine down to 1/10."""
    warmup = max(1, steps // 20)
    return min((step + 1) / warmup, 0.1 + 0.45 * (1 + math.cos(math.pi * step / max(1, steps))))
