"""TrainConfig: every setting of a training run, the presets, and the command's arguments."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from cleaner_rl.errors import CheckpointError, UserError
from cleaner_rl.settings import (
    Bound,
    Config,
    Count,
    CountOrNone,
    CreditRule,
    EpisodeConfig,
    GraftedTreatment,
    LoggerName,
    Positive,
    Precision,
    UpdateConfig,
    change,
    changed,
    check_bounds,
    flag,
    flat,
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
    seed: CountOrNone = 0
    """Of tasks, sampling and rollback draws."""
    device: str = "auto"
    """auto (CUDA when there is one), cpu, cuda, cuda:1, ..."""
    dtype: Precision = "float32"
    """Precision of all forward passes; weights and optimiser stay in float32."""

    steps: Count = 60
    """Training steps: each samples a batch of episodes and learns from it."""
    prompts: Count = 16
    """Problems in a step."""
    group_size: Annotated[
        int, Bound(lambda value: value >= 2, "be at least 2: a group compares its episodes")
    ] = 8
    """Episodes for each problem; they are compared with each other."""
    minibatch_prompts: Count = 16
    """Problems in one optimiser update; smaller than --prompts gives several updates a step."""
    max_prompt_tokens: Count = 256
    """Problems with longer prompts are skipped and counted."""
    dynamic_sampling: CountOrNone = 0
    """Further rounds of problems that a step may play to replace groups that teach nothing, all
    rewards, those of branches included, being the same; 0 keeps such groups."""
    oversample: Count = 2
    """With --saar roc: episodes played for each that is kept."""
    credit: CreditRule = "purified"
    """Which tokens take an episode's advantage; see cleaner_rl/grpo/credit.py."""
    grafted: GraftedTreatment = "recompute"
    """Grafted tokens: train on recomputed old log-probabilities, or leave them out."""
    lora_rank: CountOrNone = 0
    """Train low-rank adapters of that rank in the place of the weights; 0 trains all weights."""
    lora_alpha: Positive = 32.0
    """The adapters' output is multiplied by alpha / rank."""
    episode: tyro.conf.OmitArgPrefixes[EpisodeConfig] = field(default_factory=EpisodeConfig)
    update: tyro.conf.OmitArgPrefixes[UpdateConfig] = field(default_factory=UpdateConfig)

    eval_tasks: CountOrNone = 240
    """Held-out problems for the evaluation before and after training; 0 for none."""
    eval_samples: Count = 1
    """Episodes for each of them."""
    eval_every: CountOrNone = 0
    """Steps between evaluations on the same problems, with rollback off and on, whose episodes are
    all kept in evaluations/; 0 for none."""
    save_every: Count = 20
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Latest checkpoints that are kept."""
    log_episodes: CountOrNone = 8
    """Episodes of each step that are written to the run directory, raw and purified."""
    rank_timeout: Positive = 3600.0
    """With torchrun: seconds that a process waits for another one before the run is given up; more
    than the slowest episode takes (docs/scaling.md)."""
    logger: LoggerName = "none"
    """Send metrics to tensorboard or wandb as well; metrics.jsonl is always written."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.minibatch_prompts > self.prompts:
            raise UserError("--minibatch-prompts must not exceed --prompts")
        if self.eval_every and not self.eval_tasks:
            raise UserError("--eval-every needs --eval-tasks: the problems to evaluate on")

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Read the ``config.json`` of a run."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"cannot read {path}: {error}; name the directory of a run, such as runs/tiny-..."
            ) from error
        return restore(cls(), values, path)


_QWEN3_4B = TrainConfig(
    preset="qwen3-4b",
    model="Qwen/Qwen3-4B",
    dtype="float16",
    steps=280,
    prompts=128,
    group_size=16,
    minibatch_prompts=32,
    max_prompt_tokens=2560,
    episode=EpisodeConfig(
        max_turns=16,
        max_response_tokens=20480,
        max_turn_tokens=20480,
        overlong_buffer=4096,
        wrong_reward=-1.0,
        workers=16,
        schedule="eager",
    ),
    update=UpdateConfig(
        learning_rate=2e-6,
        warmup_steps=20,
        clip_low=0.2,
        clip_high=0.28,
        pack_tokens=32768,
        gradient_checkpointing=True,
    ),
)

PRESETS: dict[str, TrainConfig] = {
    "tiny": TrainConfig(
        prompts=8,
        minibatch_prompts=8,
        credit="branched",
        episode=EpisodeConfig(preload="light", code_seconds=1.0),
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
        max_prompt_tokens=512,
        episode=EpisodeConfig(
            preload="light",
            code_seconds=2.0,
            max_turns=4,
            max_response_tokens=768,
            max_turn_tokens=256,
        ),
        update=UpdateConfig(learning_rate=1e-5, warmup_steps=10, pack_tokens=16384),
    ),
    "qwen3-4b": _QWEN3_4B,
    "qwen2.5-7b": change(
        _QWEN3_4B,
        preset="qwen2.5-7b",
        model="Qwen/Qwen2.5-7B-Instruct",
        learning_rate=1e-6,
        rollback_probability=0.7,
    ),
}
"""Settings by name. The two Qwen presets are the recipe of CLEANER's authors; ``tiny`` runs on a
CPU in minutes; ``smollm2`` goes on from its cold start and is meant for one GPU."""

MAY_CHANGE = (
    *("steps", "device", "workers", "allow_weak", "max_prompt_tokens", "pack_tokens"),
    *("sample_batch", "save_every", "keep_checkpoints", "log_episodes", "logger", "resume"),
    *("gradient_checkpointing", "rank_timeout", "cache_tokens", "schedule"),
)
"""Settings that may differ when a run is resumed: those that do not say what is learned."""


def parse_arguments(arguments: Sequence[str]) -> TrainConfig:
    """The configuration behind command-line arguments."""
    early = given(arguments, "preset", "resume")
    if "resume" not in early:
        return _parse(arguments, choose(PRESETS, early.get("preset", "tiny")))
    stored = TrainConfig.load(Path(early["resume"]) / "config.json")
    config = _parse(arguments, stored)
    if other := changed(stored, config, MAY_CHANGE):
        flags = ", ".join(map(flag, other))
        raise UserError(f"a resumed run keeps its settings; leave out: {flags}")
    return replace(config, run_dir=early["resume"])


def _parse(arguments: Sequence[str], default: TrainConfig) -> TrainConfig:
    return tyro.cli(TrainConfig, args=arguments, default=default, prog="python -m cleaner_rl.train")


def choose(presets: Mapping[str, Config], name: str) -> Config:
    """The preset of that name."""
    if name not in presets:
        raise UserError(f"unknown preset {name!r}; use one of: {', '.join(presets)}")
    return presets[name]


def given(arguments: Sequence[str], *names: str) -> dict[str, str]:
    """The values of those of these settings that the arguments give, as text.

    For what has to be known before all arguments are parsed, whose defaults may depend on it.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        # A missing value is the full parser's to report, so it is none here.
        parser.add_argument(*{flag(name), f"--{name}"}, dest=name, nargs="?")
    known = vars(parser.parse_known_args(arguments)[0])
    return {name: value for name, value in known.items() if value is not None}


def restore(default: Config, values: Mapping[str, Any], path: Path) -> Config:
    """A config from what ``flat`` gave and ``path`` held."""
    unknown = values.keys() - flat(default).keys()
    if unknown:
        raise CheckpointError(f"{path} has settings that do not exist: {sorted(unknown)}")
    return change(default, **values)
