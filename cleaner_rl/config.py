"""TrainConfig: every setting of a training run, and the presets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import tyro

from cleaner_env.rewards import FormatTerm, Reward, ToolTerm
from cleaner_env.saar import Mode
from cleaner_rl.errors import CheckpointError, UserError
from cleaner_rl.rollout.environment import EpisodeConfig
from cleaner_rl.settings import (
    CreditRule,
    GraftedTreatment,
    LoggerName,
    LossName,
    Precision,
    Preload,
    SaarMode,
    Schedule,
    SimilarityOn,
    SystemPrompt,
    ToolFormat,
)

_WRAPPER_MODES: dict[SaarMode, Mode] = {
    "on": "saar",
    "off": "off",
    "shallow-only": "shallow-only",
    "deep-only": "deep-only",
    "mask-failed": "mask-failed",
    "roc": "off",
}
_AT_LEAST_ONE = (
    *("steps", "prompts", "minibatch_prompts", "pack_tokens", "workers", "max_turns"),
    *("max_prompt_tokens", "max_response_tokens", "max_turn_tokens", "sample_batch"),
    *("eval_samples", "save_every", "keep_checkpoints", "max_calls", "oversample"),
)
_NOT_NEGATIVE = (
    *("seed", "max_retries", "warmup_steps", "weight_decay", "eval_tasks", "eval_every"),
    *("kl_coefficient", "tis_cap", "dynamic_sampling", "lora_rank", "cache_tokens"),
    *("log_episodes", "overlong_buffer", "overlong_factor", "format_penalty", "failure_penalty"),
)
_ABOVE_ZERO = (
    *("temperature", "code_seconds", "learning_rate", "grad_clip", "lora_alpha", "rank_timeout"),
)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Train a policy to use a Python interpreter, by GRPO on episodes purified by SAAR."""

    preset: str = "tiny"
    """Where the other defaults come from: tiny, smollm2, qwen3-4b or qwen2.5-7b."""
    model: str = "bundled"
    """Policy to start from: bundled, smollm2, a Hugging Face directory, or a hub name."""
    tasks: str = "reasoning-gym"
    """Problems: reasoning-gym, reasoning-gym:FAMILY,FAMILY@level=2, gsm8k:FILE, a file with prompt
    and answer in every row, ...; " + " between several mixes them (docs/tasks.md). Of most a tenth
    is held out for evaluation; @holdout=0.2 holds out a fifth."""
    run_dir: str = ""
    """Where the run is written; empty makes a new directory in runs/."""
    resume: str = ""
    """Run directory to continue, with its own settings; beside it may be given --steps and what
    does not change the learning, such as --device and --workers."""
    seed: int = 0
    """Of tasks, sampling and rollback draws."""
    device: str = "auto"
    """auto (CUDA when there is one), cpu, cuda, cuda:1, ..."""
    dtype: Precision = "float32"
    """Precision of all forward passes; weights and optimiser stay in float32."""

    steps: int = 60
    """Training steps: each samples a batch of episodes and learns from it."""
    prompts: int = 16
    """Problems in a step."""
    group_size: int = 8
    """Episodes for each problem; they are compared with each other."""
    minibatch_prompts: int = 16
    """Problems in one optimiser update; smaller than --prompts gives several updates a step."""

    saar: SaarMode = "on"
    """What becomes of failed calls: on rolls them back by similarity (SAAR), off is plain GRPO.
    Baselines to compare with: shallow-only and deep-only roll back without looking at similarity,
    mask-failed keeps failed calls out of the loss, roc plays more episodes than it needs and keeps
    the correct ones with the fewest failed calls."""
    oversample: int = 2
    """With --saar roc: episodes played for each that is kept."""
    gamma: float = 0.5
    """Similarity of two calls from which on a splice keeps the failed turn's reasoning."""
    max_retries: int = 3
    """Lookaheads at one position."""
    rollback_probability: float = 1.0
    """Share of episodes that have rollback."""
    similarity_on: SimilarityOn = "code"
    """Compare programs (the paper) or whole call blocks (the authors' released code)."""
    credit: CreditRule = "purified"
    """Which tokens take an episode's advantage; see cleaner_rl/grpo/credit.py."""
    grafted: GraftedTreatment = "recompute"
    """Grafted tokens: train on recomputed old log-probabilities, or leave them out."""

    max_turns: int = 3
    """Turns of an episode."""
    max_prompt_tokens: int = 256
    """Problems with longer prompts are skipped and counted."""
    max_response_tokens: int = 512
    """Tokens of an episode after its prompt."""
    max_turn_tokens: int = 128
    """Tokens of one turn."""
    system_prompt: SystemPrompt = "auto"
    """First message of an episode: how to use the tool (default) or nothing (none); auto leaves it
    out for policies that know the tool from their cold start, such as the bundled one."""
    tool_format: ToolFormat = "auto"
    """How the model calls the tool; auto goes by its chat template and warns where that shows no
    known format. See docs/environment.md."""
    max_calls: int = 1
    """Calls of one turn; they run in order, up to the first that fails."""
    strict_calls: bool = True
    """Malformed calls are errors that the model sees; off repairs what can be repaired."""
    temperature: float = 1.0
    """Of sampling in training and evaluation."""
    stateful: bool = False
    """An episode's programs share their variables; one that fails leaves no trace."""
    preload: Preload = "full"
    """What programs find imported already: the standard library (light), or numpy and sympy as well
    (full), which costs every program a little and spares those which import them most of a
    second."""
    code_seconds: float = 4.0
    """Wall time of one program."""
    wrong_reward: float = 0.0
    """What an episode without the right answer earns; one with it earns 1."""
    partial_reward: bool = False
    """A score between 0 and 1, such as the share of tests passed, earns its share."""
    format_penalty: float = 0.0
    """Taken off an episode whose answer cannot be found."""
    failure_penalty: float = 0.0
    """Taken off for each failed call that is left after rollback, 1 at most in all."""
    overlong_buffer: int = 0
    """Last tokens of the response budget in which the reward falls off; 0 turns this off."""
    overlong_factor: float = 1.0
    """Penalty at the end of that buffer."""

    learning_rate: float = 2e-4
    """Of AdamW, after the warm-up."""
    warmup_steps: int = 3
    """Steps over which the learning rate rises from zero."""
    weight_decay: float = 0.0
    """Of AdamW."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    loss: LossName = "dapo"
    """What is minimised: grpo, dr_grpo, dapo, gspo or cispo; see docs/training.md."""
    clip_low: float | None = None
    """How far a probability ratio may fall below 1; None takes the loss's own bound."""
    clip_high: float | None = None
    """How far a probability ratio may rise above 1; None takes the loss's own bound."""
    dual_clip: float = 10.0
    """Bound on the ratio of tokens with a negative advantage, for grpo, dr_grpo and dapo; inf for
    none."""
    kl_coefficient: float = 0.0
    """Weight of a KL term that holds on to the policy the run started from; 0 for none."""
    tis_cap: float = 0.0
    """Largest truncated importance weight, where the sampler's probabilities differ from the
    trainer's; 2 is usual, 0 for none."""
    dynamic_sampling: int = 0
    """Further rounds of problems that a step may play to replace groups that teach nothing, all
    rewards, those of branches included, being the same; 0 keeps such groups."""
    lora_rank: int = 0
    """Train low-rank adapters of that rank in the place of the weights; 0 trains all weights."""
    lora_alpha: float = 32.0
    """The adapters' output is multiplied by alpha / rank."""
    gradient_checkpointing: bool = False
    """Compute activations anew in the backward pass: less memory, a third more computation."""
    pack_tokens: int = 8192
    """Tokens in one packed forward and backward pass."""
    sample_batch: int = 128
    """Turns that are decoded together."""
    cache_tokens: int = 0
    """Tokens whose keys and values are kept for sampling; 0 takes a quarter of the memory."""
    schedule: Schedule = "reproducible"
    """When an episode goes on whose program has run: reproducible lets the sampled tokens alone
    decide, so that the same seed gives the same numbers; eager does not wait for slow programs."""

    eval_tasks: int = 240
    """Held-out problems for the evaluation before and after training; 0 for none."""
    eval_samples: int = 1
    """Episodes for each of them."""
    eval_every: int = 0
    """Steps between evaluations on the same problems, with rollback off and on, whose episodes are
    all kept in evaluations/; 0 for none."""
    save_every: int = 20
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Latest checkpoints that are kept."""
    log_episodes: int = 8
    """Episodes of each step that are written to the run directory, raw and purified."""
    workers: int = 2
    """Programs that run at the same time, in each process."""
    rank_timeout: float = 3600.0
    """With torchrun: seconds that a process waits for another one before the run is given up; more
    than the slowest episode takes (docs/scaling.md)."""
    allow_weak: bool = False
    """Run programs without isolation where bubblewrap does not work."""
    logger: LoggerName = "none"
    """Send metrics to tensorboard or wandb as well; metrics.jsonl is always written."""

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1")
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise UserError(f"--{name.replace('_', '-')} must not be negative")
        for name in _ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise UserError(f"--{name.replace('_', '-')} must be above 0")
        for name in ("gamma", "rollback_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name.replace('_', '-')} must lie between 0 and 1")
        if self.clip_low is not None and not 0 <= self.clip_low <= 1:
            raise UserError("--clip-low must lie between 0 and 1")
        if self.clip_high is not None and not self.clip_high >= 0:
            raise UserError("--clip-high must not be negative")
        if self.kl_coefficient == float("inf") or self.kl_coefficient != self.kl_coefficient:
            raise UserError("--kl-coefficient must be a finite number")
        if not self.dual_clip > 1:
            raise UserError("--dual-clip must be above 1")
        if self.group_size < 2:
            raise UserError("--group-size must be at least 2: a group compares its episodes")
        if self.minibatch_prompts > self.prompts:
            raise UserError("--minibatch-prompts must not exceed --prompts")
        if not self.wrong_reward < 1:
            raise UserError("--wrong-reward must be below 1, the reward of a right answer")
        if self.eval_every and not self.eval_tasks:
            raise UserError("--eval-every needs --eval-tasks: the problems to evaluate on")
        if self.overlong_buffer > self.max_response_tokens:
            raise UserError("--overlong-buffer must not exceed --max-response-tokens")

    def rollout(self) -> EpisodeConfig:
        """What an episode is like."""
        return EpisodeConfig(
            rollback=self.saar not in ("off", "roc"),
            mode=_WRAPPER_MODES[self.saar],
            gamma=self.gamma,
            max_retries=self.max_retries,
            rollback_probability=self.rollback_probability,
            similarity_on=self.similarity_on,
            max_turns=self.max_turns,
            max_response_tokens=self.max_response_tokens,
            max_turn_tokens=self.max_turn_tokens,
            system_prompt=self.system_prompt,
            tool_format=self.tool_format,
            max_calls=self.max_calls,
            strict_calls=self.strict_calls,
            stateful=self.stateful,
            preload=self.preload,
            code_seconds=self.code_seconds,
            workers=self.workers,
            schedule=self.schedule,
            allow_weak=self.allow_weak,
            reward=self.reward(),
        )

    def reward(self) -> Reward:
        """What an episode earns, overlong shaping aside, which is the trainer's: it counts tokens.

        See ``cleaner_env.rewards``.
        """
        terms = (FormatTerm(penalty=self.format_penalty), ToolTerm(failure=self.failure_penalty))
        return Reward(wrong=self.wrong_reward, partial=self.partial_reward, terms=terms)

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Read the ``config.json`` of a run.

        Raises:
            CheckpointError: the file is missing, damaged, or has settings that do not exist.
        """
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"cannot read {path}: {error}; name the directory of a run, such as runs/tiny-..."
            ) from error
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise CheckpointError(f"{path} has settings that do not exist: {sorted(unknown)}")
        return cls(**values)


_QWEN3_4B = TrainConfig(
    preset="qwen3-4b",
    model="Qwen/Qwen3-4B",
    dtype="float16",
    steps=280,
    prompts=128,
    group_size=16,
    minibatch_prompts=32,
    max_turns=16,
    max_prompt_tokens=2560,
    max_response_tokens=20480,
    max_turn_tokens=20480,
    overlong_buffer=4096,
    wrong_reward=-1.0,
    learning_rate=2e-6,
    warmup_steps=20,
    clip_low=0.2,
    clip_high=0.28,
    pack_tokens=32768,
    gradient_checkpointing=True,
    workers=16,
    schedule="eager",
)

PRESETS: dict[str, TrainConfig] = {
    "tiny": TrainConfig(
        prompts=8,
        minibatch_prompts=8,
        credit="branched",
        preload="light",
        code_seconds=1.0,
    ),
    "smollm2": TrainConfig(
        preset="smollm2",
        model="./runs/smollm2-sft",
        tasks="reasoning-gym:short-programs",
        dtype="bfloat16",
        steps=200,
        prompts=32,
        minibatch_prompts=16,
        credit="branched",
        preload="light",
        code_seconds=2.0,
        max_turns=4,
        max_prompt_tokens=512,
        max_response_tokens=768,
        max_turn_tokens=256,
        learning_rate=1e-5,
        warmup_steps=10,
        pack_tokens=16384,
    ),
    "qwen3-4b": _QWEN3_4B,
    "qwen2.5-7b": replace(
        _QWEN3_4B,
        preset="qwen2.5-7b",
        model="Qwen/Qwen2.5-7B-Instruct",
        learning_rate=1e-6,
        rollback_probability=0.7,
    ),
}
"""Settings by name. The two Qwen presets are the recipe of CLEANER's authors; ``tiny`` runs on a
CPU in minutes; ``smollm2`` goes on from its cold start and is meant for one GPU."""


def preset(name: str) -> TrainConfig:
    """The preset of that name.

    Raises:
        UserError: there is none.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; use one of: {', '.join(PRESETS)}")
    return PRESETS[name]


MAY_CHANGE = (
    *("steps", "device", "workers", "allow_weak", "max_prompt_tokens", "pack_tokens"),
    *("sample_batch", "save_every", "keep_checkpoints", "log_episodes", "logger", "resume"),
    *("gradient_checkpointing", "rank_timeout", "cache_tokens", "schedule"),
)
"""Settings that may differ when a run is resumed: those that do not say what is learned."""


def parse_arguments(arguments: Sequence[str]) -> TrainConfig:
    """The configuration behind command-line arguments.

    Raises:
        UserError: unknown preset, bad value, or a setting that a resumed run cannot change.
    """
    resumed = option(arguments, "--resume")
    if resumed is None:
        name = option(arguments, "--preset")
        return _parse(arguments, preset("tiny" if name is None else name))
    stored = TrainConfig.load(Path(resumed) / "config.json")
    config = _parse(arguments, stored)
    changed = [
        "--" + name.replace("_", "-")
        for name, value in asdict(config).items()
        if value != getattr(stored, name) and name not in MAY_CHANGE
    ]
    if changed:
        raise UserError(f"a resumed run keeps its settings; leave out: {', '.join(changed)}")
    return replace(config, run_dir=resumed)


def _parse(arguments: Sequence[str], default: TrainConfig) -> TrainConfig:
    return tyro.cli(TrainConfig, args=arguments, default=default, prog="python -m cleaner_rl.train")


def option(arguments: Sequence[str], name: str) -> str | None:
    """The value of an option that has to be known before the others are parsed; None without."""
    for i, argument in enumerate(arguments):
        if argument == name and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(name + "="):
            return argument.removeprefix(name + "=")
    return None
