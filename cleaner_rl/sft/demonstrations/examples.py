"""Examples: demonstrations as token ids, with a mask of the trained ones, in padded batches."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cleaner_env.chat import ChatCodec
from cleaner_rl.sft.demonstrations.episodes import Demonstration

IGNORED = -100
"""Label of a token that is not trained (torch's default ``ignore_index``)."""


@dataclass(frozen=True)
class Example:
    """One episode as tokens; ``trained[i]`` says whether token i is trained."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]


def encode_demonstration(
    demonstration: Demonstration, codec: ChatCodec, learn_slips: bool = True
) -> Example:
    """Token ids of an episode, built as in a rollout, and which of them are trained.

    The assistant's text is encoded on its own and followed by the template's end of turn. The rest
    comes from the codec and is not trained. Without ``learn_slips``, turns whose program fails are
    not trained either, but remain in the context of their corrections.
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

    A batch has at most ``batch_tokens`` tokens, padding included, unless it is a single example.
    """
    rng = random.Random(seed)
    batches: list[list[Example]] = []
    for epoch in range(math.ceil(epochs)):
        shuffled = rng.sample(list(examples), len(examples))
        share = min(1.0, epochs - epoch)
        shortest_first = sorted(
            shuffled[: round(share * len(shuffled))], key=lambda example: len(example.ids)
        )
        of_epoch: list[list[Example]] = []
        for example in shortest_first:
            if of_epoch and len(example.ids) * (len(of_epoch[-1]) + 1) <= batch_tokens:
                of_epoch[-1].append(example)
            else:
                of_epoch.append([example])
        batches += rng.sample(of_epoch, len(of_epoch))
    return batches


def collate(batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Right-padded ids_BT and labels_BT, which are IGNORED where a token is not trained."""
    ids = [torch.tensor(example.ids) for example in batch]
    labels = [
        row.where(torch.tensor(example.trained), IGNORED)
        for row, example in zip(ids, batch, strict=True)
    ]
    return (
        pad_sequence(ids, batch_first=True),
        pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    )
