"""SftArgs: every setting of a cold start, and the presets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from cleaner_rl.config import choose, given
from cleaner_rl.errors import UserError
from cleaner_rl.settings import (
    Count,
    CountOrNone,
    EpisodeConfig,
    NotNegative,
    Positive,
    check_bounds,
)
from cleaner_rl.sft.demonstrations.episodes import DemonstrationMix

SCRATCH = "scratch"
"""Value of ``--base`` that builds a small model instead of going on from one."""

_MAY_CHANGE = (
    *("out", "overwrite", "resume", "device", "workers", "allow_weak"),
    *("eval_tasks", "eval_batch", "max_turn_tokens", "max_response_tokens"),
)
"""Settings that may differ when a training is resumed: those that do not say what is learned."""


@dataclass(frozen=True)
class ModelArgs:
    """Shape of the model that is trained from scratch."""

    vocab_size: int = 1024
    """Tokens of the vocabulary, bytes and added tokens included."""
    hidden_size: int = 192
    """Width of the residual stream."""
    layers: int = 4
    """Number of transformer blocks."""
    heads: int = 6
    """Query heads, each of width 32."""
    kv_heads: int = 2
    """Key and value heads."""
    mlp_size: int = 576
    """Width inside the MLP."""
    max_length: int = 1024
    """Longest sequence the model is meant for, in tokens."""


@dataclass(frozen=True)
class SftArgs:
    """Teach a model the tool by demonstrations whose programs were executed, and evaluate it."""

    preset: str = "tiny"
    """Where the other defaults come from: tiny (the bundled policy, from scratch) or smollm2."""
    base: str = SCRATCH
    """Model to go on from: smollm2, a Hugging Face directory, or a hub name; scratch builds the
    small one of --model.* with a tokenizer of its own."""
    tasks: str = "reasoning-gym"
    """Problems of the demonstrations, as in training: families of reasoning-gym that there are
    programs for, and gsm8k:FILE, whose worked solutions become programs; " + " between them."""
    out: Path = Path("runs/policy")
    """Directory the policy is saved to, in the Hugging Face format."""
    overwrite: bool = False
    """Replace --out where it exists already."""
    resume: bool = False
    """Go on with the training that was interrupted for the same --out, with the same settings."""
    seed: CountOrNone = 0
    """Seed of demonstrations, initial weights and batches."""
    device: str = "cpu"
    """auto (CUDA when there is one), cpu, cuda, ..."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of all forward passes; weights and optimiser stay in float32."""
    demonstrations: Count = 16_000
    """Number of training episodes that are generated."""
    max_tokens: Count = 1024
    """Episodes that are longer are left out, and counted."""
    learn_slips: bool = True
    """Train on the turns whose program fails as well; off only reads them, and trains on what
    corrects them."""
    clean_epochs: NotNegative = 2.0
    """Passes over the episodes without bugs that come first: short ones, to learn copying from."""
    epochs: NotNegative = 1.0
    """Passes over all episodes. More leave the policy more certain, and RL less choice."""
    batch_tokens: Count = 2048
    """Tokens per optimiser step, padding included."""
    learning_rate: Positive = 2e-3
    """Peak learning rate of AdamW; a short warm-up, then a cosine down to a tenth."""
    weight_decay: NotNegative = 0.05
    """Weight decay of the matrices."""
    workers: Count = 2
    """Sandbox workers that execute programs."""
    allow_weak: bool = False
    """Run programs without isolation where bubblewrap does not work."""
    eval_tasks: CountOrNone = 480
    """Held-out tasks of the evaluation at the end; 0 skips it."""
    eval_batch: Count = 128
    """Episodes of the evaluation that are decoded together."""
    max_turn_tokens: Count = 128
    """Tokens of one turn in the evaluation."""
    max_response_tokens: Count = 512
    """Tokens of an episode after its prompt in the evaluation."""
    mix: DemonstrationMix = field(default_factory=DemonstrationMix)
    """Shares of bugs and wrong programs in the demonstrations."""
    model: ModelArgs = field(default_factory=ModelArgs)
    """Shape of the model from scratch."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.clean_epochs + self.epochs == 0:
            raise UserError("nothing would be learned: give --epochs above 0")
        if not self.from_scratch and self.model != ModelArgs():
            raise UserError("--model.* shapes a model from scratch; leave it out with --base")

    @property
    def from_scratch(self) -> bool:
        """True when there is no model to go on from."""
        return self.base == SCRATCH

    def learned_by(self) -> dict[str, Any]:
        """The settings that say what is learned, as plain data."""
        return {name: value for name, value in asdict(self).items() if name not in _MAY_CHANGE}

    def rollout(self) -> EpisodeConfig:
        """What an episode of the evaluation is like."""
        return EpisodeConfig(
            saar="off",
            max_turn_tokens=self.max_turn_tokens,
            max_response_tokens=self.max_response_tokens,
            sample_batch=self.eval_batch,
            workers=self.workers,
            allow_weak=self.allow_weak,
        )


SFT_PRESETS: dict[str, SftArgs] = {
    "tiny": SftArgs(),
    "smollm2": SftArgs(
        preset="smollm2",
        base="smollm2",
        tasks="reasoning-gym:short-programs",
        out=Path("runs/smollm2-sft"),
        device="auto",
        dtype="bfloat16",
        demonstrations=3000,
        max_tokens=768,
        learn_slips=False,
        clean_epochs=0.0,
        epochs=1.0,
        learning_rate=5e-4,
        weight_decay=0.01,
        eval_tasks=120,
        eval_batch=64,
        max_turn_tokens=256,
        max_response_tokens=768,
        mix=DemonstrationMix(wrong=0.0, buggy=0.25, two_bugs=0.03),
    ),
}
"""Settings by name. ``smollm2`` takes minutes on a GPU and hours on two cores."""


def parse_sft_arguments(arguments: Sequence[str]) -> SftArgs:
    """The settings behind command-line arguments."""
    default = choose(SFT_PRESETS, given(arguments, "preset").get("preset", "tiny"))
    return tyro.cli(SftArgs, args=arguments, default=default, prog="python -m cleaner_rl.sft")
