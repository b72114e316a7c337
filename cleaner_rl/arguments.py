"""Arguments of the training command: a preset or a resumed run, then what the user overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import tyro

from cleaner_rl.config import TrainConfig, preset
from cleaner_rl.errors import UserError

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
