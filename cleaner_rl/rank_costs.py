"""Rank costs: memory of each rank and traffic between ranks in a training step, by formula."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from cleaner_rl.models.memory import ModelShape, activation_bytes, estimate_memory
from cleaner_rl.models.precision import Precision


@dataclass(frozen=True, slots=True)
class StepShape:
    """The sizes of a training step.

    Attributes:
        episodes: of all ranks.
        tokens: of an episode, on average, prompt included.
        pack_tokens: of a row.
        updates: optimiser updates.
        context: most tokens of an episode.
    """

    episodes: int
    tokens: int
    pack_tokens: int
    updates: int
    context: int


@dataclass(frozen=True, slots=True)
class RankCosts:
    """Bytes of one rank.

    Attributes:
        state: its part of float32 weights, gradients and AdamW's moments.
        copy: whole weights for sampling, in the precision of the passes; one rank samples in
            float32 with the weights that it trains.
        gathered: weights of the passes at their most: two layers, and embedding and head; on one
            rank all, cast to half precision by autocast, and none in float32.
        activations: of a row, layers computed anew in the backward pass, and a chunk of logits.
        cache: keys and values of one episode at its longest, in sampling.
        rows: passes of a step, forward and backward, on each rank.
        traffic: sent and received in a step.
    """

    state: int
    copy: int
    gathered: int
    activations: int
    cache: int
    rows: int
    traffic: int

    @property
    def learning(self) -> int:
        """Memory of an update; sampling, which takes turns with it, has state, copy and caches."""
        return self.state + self.copy + self.gathered + self.activations

    def episodes(self, memory: int) -> int:
        """How many of the longest episodes can be decoded together in so much memory."""
        return max(0, memory - self.state - self.copy) // self.cache


def rank_costs(shape: ModelShape, step: StepShape, precision: Precision, ranks: int) -> RankCosts:
    """What a rank of so many takes, with Triton for the logits.

    Every pass gathers the weights once forward and once backward in the precision of passes and
    adds up float32 gradients; with several updates a step, a forward pass for the old
    log-probabilities comes before; after each step the copy is gathered in float32. A ring sends
    and receives (ranks - 1) / ranks of what is gathered.
    """
    bytes_each = 4 if precision == "float32" else 2
    whole = estimate_memory(shape, precision, step.pack_tokens, 1, step.context, in_place=True)
    table = shape.vocabulary * shape.hidden
    layer = max(0, shape.parameters - 2 * table) // shape.layers
    alone = ranks == 1
    rows = step.updates * ceil(
        step.episodes * step.tokens / (step.updates * step.pack_tokens * ranks)
    )
    passes = 2 * bytes_each + 4 + (bytes_each if step.updates > 1 else 0)
    once = shape.parameters * (rows * passes + 4)
    copy = shape.parameters * bytes_each
    if alone and precision == "float32":
        copy = 0
    return RankCosts(
        state=shape.parameters * 16 // ranks,
        copy=copy,
        gathered=copy if alone else (2 * layer + 2 * table) * (bytes_each + 4),
        activations=step.pack_tokens
        * (shape.layers * shape.hidden * bytes_each + activation_bytes(shape, precision))
        + whole.logits,
        cache=whole.cache,
        rows=rows,
        traffic=0 if alone else once * (ranks - 1) // ranks,
    )
