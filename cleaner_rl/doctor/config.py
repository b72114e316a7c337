"""DoctorConfig: the settings of the doctor, and the arguments of the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from cleaner_rl.config import PRESETS, TrainConfig, choose, given, model_of
from cleaner_rl.settings import Count, Positive, ServerConfig, change, check_bounds


@dataclass(frozen=True, slots=True)
class DoctorConfig:
    """Check a model, tasks and this machine before a training, and say what would go wrong.

    With --endpoint: check a server and the --model that it has, before an evaluation.

    Exit status: 0 no check failed, 1 a check failed, 2 wrong arguments.
    """

    num_tasks: Count = 64
    """Number of problems to check."""
    weights: bool = True
    """Load the weights; without them, check the tokenizer and the configuration only."""
    grader_seconds: Positive = 10.0
    """Longest time that grading an answer may take, in seconds."""
    json: bool = False
    """Print one JSON object and nothing else."""
    server: tyro.conf.OmitArgPrefixes[ServerConfig] = field(default_factory=ServerConfig)
    train: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    """Settings of the training to check, as for python -m cleaner_rl.train."""

    def __post_init__(self) -> None:
        check_bounds(self)


def parse_doctor(arguments: Sequence[str], prog: str = "cleaner-rl doctor") -> DoctorConfig:
    """What to check: the training of a preset, or a run to resume with its own settings."""
    early = given(arguments, "preset", "resume")
    if "resume" in early:
        train = TrainConfig.load(Path(early["resume"]) / "config.json")
    else:
        train = choose(PRESETS, early.get("preset", "tiny"))
    default = DoctorConfig(train=train)
    config = tyro.cli(DoctorConfig, args=arguments, default=default, prog=prog)
    return change(config, model=model_of(config.train.model))
