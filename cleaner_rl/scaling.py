"""Scaling: ``python -m cleaner_rl.scaling`` computes what a training takes on so many GPUs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tyro
from transformers import Qwen2Config, Qwen3Config

from cleaner_rl.bounds import episode_bounds
from cleaner_rl.config import preset
from cleaner_rl.errors import UserError, run_command
from cleaner_rl.models.memory import ModelShape
from cleaner_rl.models.policy import load_model_config
from cleaner_rl.models.precision import Precision
from cleaner_rl.rank_costs import RankCosts, StepShape, rank_costs

_GIB = 2**30
_COLUMNS = (
    *("model", "GPUs", "state", "copy", "gathered", "activations", "learning", "fits"),
    *("cache of one", "decoded together", "rows", "traffic"),
)


def _qwen3(hidden: int, intermediate: int, layers: int, heads: int) -> Qwen3Config:
    return Qwen3Config(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        tie_word_embeddings=True,
    )


ARCHITECTURES: dict[str, Any] = {
    "qwen3-0.6b": _qwen3(1024, 3072, 28, 16),
    "qwen3-1.7b": _qwen3(2048, 6144, 28, 16),
    "qwen3-4b": _qwen3(2560, 9728, 36, 32),
    "qwen2.5-7b": Qwen2Config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
        tie_word_embeddings=False,
    ),
}
"""Models by name whose shape is known here; nothing is downloaded."""


@dataclass(frozen=True, slots=True)
class ScalingConfig:
    """Compute memory of a GPU and traffic of a step for models and numbers of GPUs."""

    models: tuple[str, ...] = tuple(ARCHITECTURES)
    """Names of architectures, or what --model takes."""
    ranks: tuple[int, ...] = (1, 2, 8, 64)
    """Numbers of GPUs, one process each."""
    preset: str = "qwen3-4b"
    """Where episodes in a step, tokens and packing come from."""
    dtype: Precision = "bfloat16"
    """Of the passes."""
    tokens: int = 4096
    """Of an episode, on average, prompt included."""
    pack_tokens: int = 0
    """Of a row; 0 takes the preset's."""
    gpu_gib: float = 80.0
    """Memory of a GPU."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command: a table in Markdown."""
    arguments = sys.argv[1:] if arguments is None else arguments
    config = tyro.cli(ScalingConfig, args=arguments, prog="python -m cleaner_rl.scaling")
    if not config.ranks or min(config.ranks) < 1:
        raise UserError("--ranks must be at least 1")
    if config.tokens < 1:
        raise UserError("--tokens must be at least 1")
    print("\n".join(table(config)))
    return 0


def table(config: ScalingConfig) -> list[str]:
    """The table's lines.

    Raises:
        UserError: there is no such model or preset.
    """
    training = preset(config.preset)
    context = training.max_prompt_tokens + training.max_response_tokens
    episodes = training.prompts * training.group_size
    pack = config.pack_tokens or training.pack_tokens
    lines = [
        f"Steps of {episodes} episodes with {config.tokens} tokens on average and {context} at the "
        f"most, {training.prompts // training.minibatch_prompts} updates, rows of {pack} tokens, "
        f"passes in {config.dtype}; GiB a GPU of {config.gpu_gib:g}.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "|" + "---|" * len(_COLUMNS),
    ]
    for name in config.models:
        shape = ModelShape.of(ARCHITECTURES.get(name) or load_model_config(name))
        for ranks in config.ranks:
            step = StepShape(
                episodes=episodes,
                tokens=config.tokens,
                pack_tokens=pack,
                updates=training.prompts // training.minibatch_prompts,
                context=context,
            )
            costs = rank_costs(shape, step, config.dtype, ranks)
            lines.append(_line(name, ranks, costs, config.gpu_gib))
    bounds = episode_bounds(training)
    lines += [
        "",
        f"An episode samples at most {bounds.turns} turns and {bounds.tokens} tokens and runs at "
        f"most {bounds.programs} programs for {bounds.program_seconds:.0f} s.",
    ]
    return lines


def _line(name: str, ranks: int, costs: RankCosts, gpu_gib: float) -> str:
    parts = (costs.state, costs.copy, costs.gathered, costs.activations, costs.learning)
    sizes = " | ".join(f"{size / _GIB:.1f}" for size in parts)
    fits = "yes" if costs.learning <= gpu_gib * _GIB else "no"
    episodes = costs.episodes(int(gpu_gib * _GIB))
    return (
        f"| {name} | {ranks} | {sizes} | {fits} | {costs.cache / _GIB:.1f} | {episodes} | "
        f"{costs.rows} | {costs.traffic / _GIB:.0f} |"
    )


if __name__ == "__main__":
    run_command(main)
