"""Examples: demonstrations as token ids, with a mask of what is trained, in padded batches."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cleaner_env.chat import ChatCodec
from cleaner_rl.sft.demonstrations.episodes import Demonstration

__all__ = ["IGNORED", "Example", "collate", "encode_demonstration", "length_batches"]

IGNORED = -100
"""Label of a token that is not trained (torch's default ``ignore_index``)."""


@dataclass(frozen=True)
class Example:
    """One episode as tokens; ``trained[i]`` is True where token i was written by the assistant."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]


def encode_demonstration(
    demonstration: Demonstration, codec: ChatCodec, learn_slips: bool = True
) -> Example:
    """Token ids of an episode, put together as a rollout does it, and which are the assistant's.

    The assistant's text is encoded by itself and ended by the template's end of turn; everything
    else comes from the codec and is not trained.

    Args:
        demonstration: the episode.
        codec: of the policy that is to learn from it.
        learn_slips: False leaves out of the training what is written in turns whose program fails;
            they stay in the context of what corrects them.
    """
    stop_id = codec.stop_ids[0]
    ids = codec.prompt_ids([{"role": "user", "content": demonstration.prompt}])
    trained = [False] * len(ids)
    for number, turn in enumerate(demonstration.turns):
        slip = number < len(demonstration.bugs)
        written = [*codec.tokenizer(turn.text, add_special_tokens=False)["input_ids"], stop_id]
        ids += written
        trained += [learn_slips or not slip] * len(written)
        if turn.observation is not None:
            read = codec.observation_ids(turn.observation, stop_id)
            ids += read
            trained += [False] * len(read)
    return Example(tuple(ids), tuple(trained))


def length_batches(
    examples: Sequence[Example], batch_tokens: int, epochs: float, seed: int
) -> list[list[Example]]:
    """Batches of examples of similar length, in random order.

    No batch of more than one example has more than ``batch_tokens`` tokens, padding included.
    """
    rng = random.Random(seed)
    batches: list[list[Example]] = []
    for epoch in range(math.ceil(epochs)):
        shuffled = rng.sample(list(examples), len(examples))
        share = min(1.0, epochs - epoch)
        shuffled = sorted(shuffled[: round(share * len(shuffled))], key=lambda e: len(e.ids))
        batch: list[Example] = []
        epoch_batches = []
        for example in shuffled:
            if batch and len(example.ids) * (len(batch) + 1) > batch_tokens:
                epoch_batches.append(batch)
                batch = []
            batch.append(example)
        if batch:
            epoch_batches.append(batch)
        batches += rng.sample(epoch_batches, len(epoch_batches))
    return batches


def collate(batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Right-padded ids and labels, both of shape (episodes, tokens).

    Labels are IGNORED where a token is not trained.
    """
    width = max(len(example.ids) for example in batch)
    ids_BT = torch.zeros(len(batch), width, dtype=torch.long)
    labels_BT = torch.full((len(batch), width), IGNORED)
    for row, example in enumerate(batch):
        ids = torch.tensor(example.ids)
        ids_BT[row, : len(ids)] = ids
        labels_BT[row, : len(ids)] = ids.where(torch.tensor(example.trained), IGNORED)
    return ids_BT, labels_BT
