"""ComparisonDirectory: the files of a comparison, and which of its runs are done.

comparison.json         arms, seeds, command, versions
start/seed-0/           what all runs of a seed begin with: its evaluation, hashes of policy, tasks
runs/ARM/seed-0/        a training run, as python -m cleaner_rl.train writes it
runs/ARM/seed-0.log     what it printed
report.md, *.png        the results
results.json            the same, for programs
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cleaner_rl.compare.arms import ARMS, Arm
from cleaner_rl.compare.config import CompareConfig
from cleaner_rl.config import MAY_CHANGE, TrainConfig, restore
from cleaner_rl.errors import CheckpointError, UserError
from cleaner_rl.runs.evaluations import evaluated_steps
from cleaner_rl.runs.files import read_json
from cleaner_rl.runs.lock import LOCK
from cleaner_rl.settings import changed, flag, flat

PLAN = "comparison.json"
_PARTS = {"arms", "seeds", "config", "command", "made_with"}
IDENTITY = "identity.json"
"""A start's hashes of the policy and of the held-out tasks, written last."""
_FREE = ("run_dir", "resume", *(name for name in MAY_CHANGE if name != "steps"))
"""Settings that may change while a run is unfinished."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of a comparison; the arm "start" is the evaluation that a seed's runs begin with."""

    arm: str
    seed: int
    path: Path
    config: TrainConfig

    @property
    def name(self) -> str:
        """The name shown to people."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """The file with what it prints."""
        return self.path.with_name(self.path.name + ".log")

    @property
    def is_start(self) -> bool:
        """Whether it only evaluates the policy that its seed's runs start from."""
        return self.arm == "start"

    @property
    def steps_done(self) -> int:
        """The number of steps whose metrics have been written."""
        file = self.path / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do. A training writes its report last."""
        if self.is_start:
            return (self.path / IDENTITY).exists()
        last = self.config.steps in evaluated_steps(self.path)
        return last and (self.path / "report.md").exists()

    def require_same_settings(self) -> None:
        """Check that the run, if it has been started, was started with the same settings."""
        if not (self.path / "config.json").exists():
            return
        stored = TrainConfig.load(self.path / "config.json")
        if other := changed(stored, self.config, _FREE):
            then, now = flat(stored), flat(self.config)
            settings = (f"{flag(name)} ({then[name]} then, {now[name]} now)" for name in other)
            raise UserError(
                f"the run {self.path} was started with other settings: {', '.join(settings)}; give "
                "the same ones, or start another comparison with another --out"
            )


@dataclass(frozen=True, slots=True)
class ComparisonDirectory:
    path: Path

    def start(self, config: CompareConfig, seed: int) -> PlannedRun:
        """The evaluation with which all runs of a seed begin."""
        path = self.path / "start" / f"seed-{seed}"
        return PlannedRun("start", seed, path, replace(config.train, seed=seed, run_dir=str(path)))

    def run(self, config: CompareConfig, arm: Arm, seed: int) -> PlannedRun:
        """The run of an arm and a seed."""
        path = self.path / "runs" / arm.name / f"seed-{seed}"
        settings = arm.config(replace(config.train, seed=seed, run_dir=str(path)))
        return PlannedRun(arm.name, seed, path, settings)

    def require_comparison(self) -> None:
        """Check that the directory is free, or has a comparison, perhaps one just begun."""
        files = {file.name for file in self.path.iterdir()} if self.path.is_dir() else set()
        if files and not files & {PLAN, LOCK}:
            raise CheckpointError(
                f"{self.path} is not empty and not a comparison; choose another --out"
            )

    def read_plan(self) -> dict[str, Any]:
        """Read what is compared: ``arms``, ``seeds``, ``config``, ``command``, ``made_with``."""
        path, remedy = self.path / PLAN, "--report-only takes the directory that was given as --out"
        restore(TrainConfig(), path, remedy, "config")
        plan: dict[str, Any] = read_json(path)
        unknown = set(plan.get("arms", ())) - set(ARMS)
        if unknown or not plan.keys() >= _PARTS:
            raise CheckpointError(
                f"{path} must have {sorted(_PARTS)}, and has unknown arms, {sorted(unknown)}: it "
                "was written by another version of cleaner-rl, which it names under made_with"
            )
        return plan
