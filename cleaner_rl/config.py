"""Settings of train, export and scaling, the presets, and how arguments become settings."""

from __future__ import annotations

import json
import shlex
import tomllib
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

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
    StopWhen,
    UpdateConfig,
    change,
    changed,
    check_bounds,
    flag,
    flat,
)


@dataclass(frozen=True, slots=True)
class MonitorConfig:
    """What is evaluated, saved and logged during training."""

    eval_tasks: CountOrNone = 240
    """Held-out problems to evaluate before and after training; 0 for none."""
    eval_samples: Count = 1
    """Episodes for each held-out problem."""
    eval_every: CountOrNone = 0
    """Steps between evaluations with rollback off and on; 0 for none."""
    save_every: Count = 20
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Number of checkpoints to keep; older ones are removed."""
    log_episodes: CountOrNone = 8
    """Episodes of each step to log, in whole groups, and two groups more; 0 for none."""
    logger: LoggerName = "none"
    """Send metrics and episodes to tensorboard, wandb or trackio as well."""
    stop_when: StopWhen = "never"
    """Sign of a lost run at which to stop (docs/training-reference.md)."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.eval_every and not self.eval_tasks:
            raise UserError("--eval-every needs --eval-tasks: the problems to evaluate on")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Train a policy to use a Python interpreter, by GRPO on episodes purified by SAAR."""

    preset: str = "tiny"
    """Preset that gives the defaults: tiny, smollm2, qwen3-4b or qwen2.5-7b."""
    model: str = "bundled"
    """Initial policy: bundled, smollm2, a Hugging Face directory, a run, or a hub name."""
    tasks: str = "reasoning-gym"
    """Problems: reasoning-gym, gsm8k:FILE, a file of your own, ... (docs/tasks.md)."""
    steps: Count = 60
    """Training steps; each samples a batch of episodes and learns from it."""
    run_dir: str = ""
    """Directory of the run; empty makes a new one in runs/."""
    resume: str = ""
    """Directory of a run to resume, with the settings that it was started with."""
    seed: CountOrNone = 0
    """Seed of tasks, sampling and rollback."""
    device: str = "auto"
    """Device to use: auto (CUDA if there is one), cpu, cuda, cuda:1, ..."""
    dtype: Precision = "float32"
    """Precision of forward passes; weights and optimiser stay in float32."""
    prompts: Count = 16
    """Problems in a step."""
    group_size: Annotated[
        int, Bound(lambda value: value >= 2, "be at least 2: a group compares its episodes")
    ] = 8
    """Episodes for each problem; they are compared with each other."""
    minibatch_prompts: Count = 16
    """Problems in an update of the weights; a step may have several updates."""
    max_prompt_tokens: Count = 256
    """Longest prompt; problems with longer ones are skipped and counted."""
    dynamic_sampling: CountOrNone = 0
    """Rounds of new problems that replace groups of equal rewards; 0 keeps them."""
    oversample: Count = 2
    """With --saar roc: episodes played for each one that is kept."""
    credit: CreditRule = "purified"
    """Which tokens receive an episode's advantage; see docs/training.md."""
    grafted: GraftedTreatment = "recompute"
    """Recompute old log-probabilities of grafted tokens, or leave them out (mask)."""
    lora_rank: CountOrNone = 0
    """Rank of low-rank adapters to train instead of the weights; 0 for none."""
    lora_alpha: Positive = 32.0
    """The output of the adapters is multiplied by alpha / rank."""
    rank_timeout: Positive = 3600.0
    """With torchrun: seconds to wait for a process before giving up (docs/scaling.md)."""
    episode: tyro.conf.OmitArgPrefixes[EpisodeConfig] = field(default_factory=EpisodeConfig)
    update: tyro.conf.OmitArgPrefixes[UpdateConfig] = field(default_factory=UpdateConfig)
    monitor: tyro.conf.OmitArgPrefixes[MonitorConfig] = field(default_factory=MonitorConfig)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.minibatch_prompts > self.prompts:
            raise UserError("--minibatch-prompts must not exceed --prompts")

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Read the ``config.json`` of a run."""
        return restore(cls(), path, "name the directory of a run, such as runs/tiny-...")


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """Turn a checkpoint of a run into a plain Hugging Face directory, or episodes into rows that
    other trainers take, on a CPU, in one process."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory; with --purified also an episode file or an evaluation."""
    out: Path
    """Directory to make; it must not exist yet."""
    step: int = 0
    """Step of the checkpoint, or with --purified of the episodes; 0 uses the latest, or all."""
    dtype: Precision = "float32"
    """Precision of the weights that are written."""
    purified: bool = False
    """Write the logged episodes instead of the model, as sft.jsonl and preference.jsonl."""
    all_episodes: bool = False
    """With --purified, write episodes with wrong answers too, and failed calls to sft.jsonl."""


@dataclass(frozen=True, slots=True)
class ScalingConfig:
    """Estimate the memory of each GPU and the traffic of a step, for models and numbers of GPUs."""

    models: tuple[str, ...] = ("qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen2.5-7b")
    """Architectures by name, or models as for train --model."""
    ranks: tuple[int, ...] = (1, 2, 8, 64)
    """Numbers of GPUs, one process on each."""
    preset: str = "qwen3-4b"
    """Training preset that gives the episodes in a step, their limits and packing."""
    dtype: Precision = "bfloat16"
    """Precision of the forward and backward passes."""
    tokens: Count = 4096
    """Tokens of an average episode, prompt included."""
    pack_tokens: CountOrNone = 0
    """Tokens in a packed row; 0 uses the number of the preset."""
    gpu_gib: Positive = 80.0
    """Memory of a GPU, in GiB."""

    def __post_init__(self) -> None:
        check_bounds(self)
        choose(PRESETS, self.preset)
        if not self.ranks or min(self.ranks) < 1:
            raise UserError("--ranks takes one or more numbers, each at least 1")


def read_presets(command: str, default: Config) -> dict[str, Config]:
    """The presets of a command by name, from ``presets.toml``, which says what each changes."""
    tables = tomllib.loads(Path(__file__).with_name("presets.toml").read_text("utf-8"))[command]
    defaults, presets = flat(default), dict[str, Config]()
    for name, table in tables.items():
        base = presets.get(table.pop("like", ""), default)
        paths = {key: Path(table[key]) for key in table if isinstance(defaults[key], Path)}
        presets[name] = change(base, preset=name, **{**table, **paths})
    return presets


PRESETS = read_presets("train", TrainConfig())

MAY_CHANGE = (
    *("steps", "device", "workers", "allow_weak", "max_prompt_tokens", "pack_tokens"),
    *("sample_batch", "save_every", "keep_checkpoints", "log_episodes", "logger", "resume"),
    *("gradient_checkpointing", "rank_timeout", "cache_tokens", "schedule", "stop_when"),
    "share_prefixes",
)
"""Settings that may differ when a run is resumed, as they do not affect what is learned."""


def parse_train(arguments: Sequence[str], prog: str = "cleaner-rl train") -> TrainConfig:
    """The settings that arguments give; ``prog`` is the command as it was typed."""
    early = given(arguments, "preset", "resume")
    if "resume" not in early:
        default = choose(PRESETS, early.get("preset", "tiny"))
        config = tyro.cli(TrainConfig, args=arguments, default=default, prog=prog)
        return replace(config, model=model_of(config.model))
    stored = TrainConfig.load(Path(early["resume"]) / "config.json")
    config = tyro.cli(TrainConfig, args=arguments, default=stored, prog=prog)
    if other := changed(stored, config, MAY_CHANGE):
        flags = ", ".join(map(flag, other))
        raise UserError(f"a resumed run keeps its settings; leave out: {flags}")
    return replace(config, run_dir=early["resume"])


def train_command(config: TrainConfig) -> str:
    """The command that starts a run with the same settings in a new directory."""
    values, arguments = flat(config), [f"--preset={config.preset}"]
    for name in changed(PRESETS[config.preset], config, ("run_dir", "resume")):
        value = values[name]
        on_or_off = flag(name if value else f"no_{name}")
        arguments.append(on_or_off if isinstance(value, bool) else f"{flag(name)}={value}")
    return shlex.join(["python", "-m", "cleaner_rl.train", *arguments])


def parse_export(arguments: Sequence[str], prog: str = "cleaner-rl export") -> ExportConfig:
    config = tyro.cli(ExportConfig, args=arguments, prog=prog)
    if config.all_episodes and not config.purified:
        raise UserError("--all-episodes says which episodes --purified writes; give both")
    return config


def parse_scaling(arguments: Sequence[str], prog: str = "cleaner-rl scaling") -> ScalingConfig:
    config = tyro.cli(ScalingConfig, args=arguments, prog=prog)
    return replace(config, models=tuple(map(model_of, config.models)))


def model_of(name: str) -> str:
    """A model by name; for the directory of a run, its newest checkpoint."""
    checkpoints = sorted(Path(name).expanduser().glob("checkpoints/step-*"))
    return str(checkpoints[-1]) if checkpoints else name


def choose(presets: Mapping[str, Config], name: str) -> Config:
    if name not in presets:
        raise UserError(f"unknown preset {name!r}; use one of: {', '.join(presets)}")
    return presets[name]


def given(arguments: Sequence[str], *names: str) -> dict[str, str]:
    """Those of the named settings that the arguments contain, with their values as text.

    For settings on which the defaults depend, so that they are needed before the rest is parsed.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        # A missing value is no error here: the full parser reports it.
        parser.add_argument(*{flag(name), f"--{name}"}, dest=name, nargs="?")
    known = vars(parser.parse_known_args(arguments)[0])
    if "" in known.values():
        raise UserError(f"give {next(flag(n) for n in known if known[n] == '')} a value")
    return {name: value for name, value in known.items() if value is not None}


def restore(default: Config, path: Path, remedy: str, *keys: str) -> Config:
    """A config from the ``flat`` settings that a JSON file holds, at the top or below ``keys``."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        for key in keys:
            values = values[key]
        unknown = values.keys() - flat(default).keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"cannot read {path}: {reason}; {remedy}") from error
    if unknown:
        raise CheckpointError(f"{path} has settings that do not exist: {sorted(unknown)}")
    return change(default, **values)
