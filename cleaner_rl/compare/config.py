"""CompareConfig: the settings of a comparison, and the arguments of the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from cleaner_rl.compare.arms import Arm, parse_arms, require_unset
from cleaner_rl.config import PRESETS, TrainConfig, choose, given, model_of
from cleaner_rl.errors import UserError
from cleaner_rl.settings import Count, CountOrNone, change, check_bounds

_EVALUATIONS = 10
"""Number of evaluations during a run, by default."""


@dataclass(frozen=True, slots=True)
class CompareConfig:
    """Train in several ways on the same tasks, seeds and budgets, and report the differences.

    The same command continues a comparison that was stopped.
    Exit status: 0 complete, 1 a run failed, 2 an error, 130 interrupted.
    """

    arms: str = "default"
    """Ways of training, such as off,branched, or a set: default, rules, modes, ablations."""
    seeds: Count = 3
    """Runs of each arm, with the seeds --seed, --seed + 1, ..."""
    out: str = ""
    """Directory of the comparison; empty uses runs/compare-PRESET."""
    devices: str = ""
    """Devices to use side by side, such as cuda:0,cuda:1; empty uses --device."""
    jobs: CountOrNone = 0
    """Runs at the same time on a device; 0 uses 1 on a GPU, and the number of cores on a CPU."""
    report_only: str = ""
    """Directory of a comparison whose report is to be rewritten, without training."""
    train: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    """Settings of every run, as for python -m cleaner_rl.train."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.train.run_dir or self.train.resume:
            raise UserError(
                "a comparison has many runs: leave out --run-dir and --resume. --out names its "
                "directory, and the same command continues it"
            )
        if not self.train.monitor.eval_every:
            raise UserError("--eval-every must be at least 1: a comparison needs evaluations")

    @property
    def directory(self) -> Path:
        return Path(self.report_only or self.out or f"runs/compare-{self.train.preset}")

    @property
    def seed_list(self) -> list[int]:
        return list(range(self.train.seed, self.train.seed + self.seeds))


def parse_compare(
    arguments: Sequence[str], prog: str = "cleaner-rl compare"
) -> tuple[CompareConfig, list[Arm]]:
    """The settings that arguments give, and the arms."""
    early = given(arguments, "preset", "eval_every")
    train = choose(PRESETS, early.get("preset", "tiny"))
    default = CompareConfig(train=change(train, keep_checkpoints=1, eval_every=_every(train)))
    config = tyro.cli(CompareConfig, args=arguments, default=default, prog=prog)
    config = change(config, model=model_of(config.train.model))
    if "eval_every" not in early:
        config = change(config, eval_every=_every(config.train))
    arms = parse_arms(config.arms)
    require_unset(arms, arguments)
    return config, arms


def _every(train: TrainConfig) -> int:
    return max(1, train.steps // _EVALUATIONS)
