"""SftArgs: every setting of a cold start, and the presets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cleaner_rl.config import choose, given, model_of, read_presets
from cleaner_rl.errors import UserError
from cleaner_rl.settings import (
    Bound,
    Count,
    CountOrNone,
    EpisodeConfig,
    NotNegative,
    Positive,
    Share,
    check_bounds,
)

SCRATCH = "scratch"
"""Value of ``--base`` that builds a small model with a tokenizer of its own."""

_MAY_CHANGE = (
    *("out", "overwrite", "resume", "device", "workers", "allow_weak"),
    *("eval_tasks", "eval_batch", "max_turn_tokens", "max_response_tokens"),
)
"""Settings that may differ when a training is resumed: they do not affect what is learned."""


@dataclass(frozen=True)
class ModelArgs:
    """Shape of the model that is trained from scratch."""

    vocab_size: Annotated[int, Bound(lambda size: size >= 269, "be at least 269")] = 1024
    """Size of the vocabulary; 256 bytes and 13 added tokens are part of it."""
    hidden_size: Count = 192
    """Width of the residual stream."""
    layers: Count = 4
    """Number of transformer blocks."""
    heads: Count = 6
    """Query heads, each of width 32."""
    kv_heads: Count = 2
    """Key and value heads."""
    mlp_size: Count = 576
    """Width inside the MLP."""
    max_length: Count = 1024
    """Longest sequence that the model is meant for, in tokens."""

    def __post_init__(self) -> None:
        check_bounds(self, "model.")
        if self.heads % self.kv_heads:
            raise UserError("--model.heads must be a multiple of --model.kv-heads")


@dataclass(frozen=True)
class DemonstrationMix:
    """Shares of the ingredients. ``buggy`` includes those of ``two_bugs``."""

    wrong: Share = 0.5
    """Demonstrations whose program runs but computes the wrong thing."""
    buggy: Share = 0.85
    """Demonstrations whose first program fails."""
    two_bugs: Share = 0.35
    """Demonstrations whose first correction fails as well."""
    other_program: Share = 0.25
    """Last corrections that write another program instead of repairing the same one."""

    def __post_init__(self) -> None:
        check_bounds(self, "mix.")
        if self.two_bugs > self.buggy:
            raise UserError("--mix.two-bugs must not exceed --mix.buggy, which includes it")


@dataclass(frozen=True)
class SftArgs:
    """Teach a model the tool by demonstrations whose programs were executed, and evaluate it."""

    preset: str = "tiny"
    """Preset that gives the defaults: tiny (the bundled policy, from scratch) or smollm2."""
    base: str = SCRATCH
    """Model to start from: scratch, smollm2, a Hugging Face directory, a run, or a hub name."""
    tasks: str = "reasoning-gym"
    """Problems: reasoning-gym, gsm8k:FILE, or both with + between them."""
    out: Path = Path("runs/policy")
    """Directory for the policy, in the Hugging Face format."""
    overwrite: bool = False
    """Replace --out if it exists."""
    resume: bool = False
    """Resume the interrupted training of the same --out, with the same settings."""
    seed: CountOrNone = 0
    """Seed of demonstrations, initial weights and batches."""
    device: str = "cpu"
    """Device to use: auto (CUDA if there is one), cpu, cuda, cuda:1, ..."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of forward passes; weights and optimiser stay in float32."""
    demonstrations: Count = 16_000
    """Number of demonstrations to generate."""
    max_tokens: Count = 1024
    """Longest demonstration, in tokens; longer ones are left out and counted."""
    learn_slips: bool = True
    """Train on turns whose program fails as well as on those that correct them."""
    clean_epochs: NotNegative = 2.0
    """Epochs over demonstrations without bugs, which come first."""
    epochs: NotNegative = 1.0
    """Epochs over all demonstrations; more leave the policy less to explore in RL."""
    batch_tokens: Count = 2048
    """Tokens in an optimiser step, padding included."""
    learning_rate: Positive = 2e-3
    """Peak learning rate of AdamW; warm-up, then cosine decay to a tenth."""
    weight_decay: NotNegative = 0.05
    """Weight decay of AdamW, for matrices only."""
    workers: Count = 2
    """Number of programs that run at the same time."""
    allow_weak: bool = False
    """Run programs without isolation where bubblewrap does not work."""
    eval_tasks: CountOrNone = 480
    """Held-out problems of the evaluation at the end; 0 for none."""
    eval_batch: Count = 128
    """Number of episodes that the evaluation decodes together."""
    max_turn_tokens: Count = 128
    """Maximum number of tokens in a turn of the evaluation."""
    max_response_tokens: Count = 512
    """Maximum number of tokens after the prompt in an episode of the evaluation."""
    mix: DemonstrationMix = field(default_factory=DemonstrationMix)
    """Shares of bugs and wrong programs in the demonstrations."""
    model: ModelArgs = field(default_factory=ModelArgs)
    """Shape of a model trained from scratch."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.clean_epochs + self.epochs == 0:
            raise UserError("nothing would be learned: give --epochs above 0")
        if not self.from_scratch and self.model != ModelArgs():
            raise UserError("--model.* shapes a model from scratch; leave it out with --base")

    @property
    def from_scratch(self) -> bool:
        return self.base == SCRATCH

    def learned_by(self) -> dict[str, Any]:
        """The settings that determine what is learned, as plain data."""
        return {name: value for name, value in asdict(self).items() if name not in _MAY_CHANGE}

    def rollout(self) -> EpisodeConfig:
        return EpisodeConfig(
            saar="off",
            max_turn_tokens=self.max_turn_tokens,
            max_response_tokens=self.max_response_tokens,
            sample_batch=self.eval_batch,
            workers=self.workers,
            allow_weak=self.allow_weak,
        )


SFT_PRESETS = read_presets("sft", SftArgs())


def parse_sft(arguments: Sequence[str], prog: str = "cleaner-rl sft") -> SftArgs:
    default = choose(SFT_PRESETS, given(arguments, "preset").get("preset", "tiny"))
    args = tyro.cli(SftArgs, args=arguments, default=default, prog=prog)
    return replace(args, base=model_of(args.base))
