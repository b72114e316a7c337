"""Scaling: ``python -m cleaner_rl.scaling`` estimates memory and traffic on several GPUs."""

from __future__ import annotations

if __name__ == "__main__":  # arguments are checked before the imports below, which take seconds
    from cleaner_rl.commands import start

    start("scaling")

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoConfig

from cleaner_rl.config import PRESETS, ScalingConfig, choose, parse_scaling
from cleaner_rl.models.memory import ModelShape, activation_bytes, estimate_memory
from cleaner_rl.models.policy import load_model_config
from cleaner_rl.runs.markdown import table
from cleaner_rl.settings import EpisodeConfig, Precision

_GIB = 2**30
_COLUMNS = (
    *("model", "GPUs", "state", "copy", "gathered", "activations", "learning", "fits"),
    *("cache of one", "decoded together", "rows", "traffic"),
)
ARCHITECTURES: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("architectures.toml").read_text("utf-8")
)
"""Shapes of models by name, so that nothing has to be downloaded."""


def main(arguments: Sequence[str]) -> int:
    """Run the command: a table in Markdown."""
    print(report(parse_scaling(arguments)))
    return 0


def report(config: ScalingConfig) -> str:
    """The assumptions, the table, and the upper bounds of an episode."""
    training = choose(PRESETS, config.preset)
    step = StepShape(
        episodes=training.prompts * training.group_size,
        tokens=config.tokens,
        pack_tokens=config.pack_tokens or training.update.pack_tokens,
        updates=training.prompts // training.minibatch_prompts,
        context=training.max_prompt_tokens + training.episode.max_response_tokens,
    )
    rows = []
    for name in config.models:
        known = ARCHITECTURES.get(name)
        shape = ModelShape.of(AutoConfig.for_model(**known) if known else load_model_config(name))
        for ranks in config.ranks:
            costs = rank_costs(shape, step, config.dtype, ranks)
            rows.append([name, ranks, *_cells(costs, int(config.gpu_gib * _GIB))])
    bounds = episode_bounds(training.episode)
    return (
        f"Steps of {step.episodes} episodes with {step.tokens} tokens on average and "
        f"{step.context} at most, {step.updates} updates, rows of {step.pack_tokens} tokens, "
        f"passes in {config.dtype}; sizes in GiB, on GPUs of {config.gpu_gib:g} GiB.\n\n"
        f"{table(_COLUMNS, rows)}\n"
        f"An episode samples at most {bounds.turns} turns and {bounds.tokens} tokens and runs at "
        f"most {bounds.programs} programs for {bounds.program_seconds:.0f} s."
    )


def _cells(costs: RankCosts, memory: int) -> list[object]:
    parts = (costs.state, costs.copy, costs.gathered, costs.activations, costs.learning)
    return [
        *(f"{size / _GIB:.1f}" for size in parts),
        "yes" if costs.learning <= memory else "no",
        f"{costs.cache / _GIB:.1f}",
        costs.episodes(memory),
        costs.rows,
        f"{costs.traffic / _GIB:.0f}",
    ]


@dataclass(frozen=True, slots=True)
class StepShape:
    """The sizes of a training step on all ranks together."""

    episodes: int
    tokens: int
    """Average length of an episode, prompt included."""
    pack_tokens: int
    updates: int
    context: int
    """Maximum length of an episode."""


@dataclass(frozen=True, slots=True)
class RankCosts:
    """What one rank needs, in bytes except for ``rows``.

    Attributes:
        state: its share of the float32 weights, gradients and AdamW moments.
        copy: all weights for sampling, in the precision of the passes; a single rank that samples
            in float32 uses the weights that it trains.
        gathered: the weights that passes hold at a time: two layers, the embedding and the head; on
            a single rank all weights, cast to half precision by autocast, and none in float32.
        activations: those of a row, with layers recomputed in the backward pass, and a chunk of
            logits.
        cache: keys and values of one episode of maximum length, during sampling.
        rows: forward and backward passes of each rank in a step.
        traffic: what it sends and receives in a step.
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
        """Memory during an update. Sampling, at other times, holds state, copy and caches."""
        return self.state + self.copy + self.gathered + self.activations

    def episodes(self, memory: int) -> int:
        """How many episodes of maximum length can be decoded together in this memory."""
        return max(0, memory - self.state - self.copy) // self.cache


def rank_costs(shape: ModelShape, step: StepShape, precision: Precision, ranks: int) -> RankCosts:
    """The costs of each of ``ranks`` processes, with the Triton kernel for log-probabilities.

    Every row gathers the weights twice, forward and backward, in the precision of the passes, and
    sums float32 gradients. With several updates a step, old log-probabilities take another forward
    pass. After each step the copy is gathered in float32. A ring sends and receives
    (ranks - 1) / ranks of what is gathered.
    """
    bytes_each = 4 if precision == "float32" else 2
    whole = estimate_memory(shape, precision, step.pack_tokens, 1, step.context, in_place=True)
    table = shape.vocabulary * shape.hidden
    layer = max(0, shape.parameters - 2 * table) // shape.layers
    alone = ranks == 1
    each = step.updates * step.pack_tokens * ranks
    rows = step.updates * ceil(step.episodes * step.tokens / each)
    passes = 2 * bytes_each + 4 + (bytes_each if step.updates > 1 else 0)
    once = shape.parameters * (rows * passes + 4)
    copy = 0 if alone and precision == "float32" else shape.parameters * bytes_each
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


_ROLLS_BACK = ("on", "shallow-only", "deep-only")


class EpisodeBounds(NamedTuple):
    """Upper bounds of an episode, lookaheads and discarded tokens included."""

    turns: int
    tokens: int
    programs: int
    program_seconds: float
    """Wall time of the programs, one after the other."""


def episode_bounds(config: EpisodeConfig) -> EpisodeBounds:
    """The bounds that follow from the limits on turns, retries, tokens and seconds.

    A lookahead takes no place in the history, so at each of the ``max_turns`` positions up to
    ``max_retries`` more turns are sampled, except at the last, where the turn ends the episode.
    """
    retries = config.max_retries if config.saar in _ROLLS_BACK else 0
    turns = (config.max_turns - 1) * (1 + retries) + 1
    tokens = turns * min(config.max_turn_tokens, config.max_response_tokens)
    programs = turns * config.max_calls
    return EpisodeBounds(turns, tokens, programs, programs * config.code_seconds)
