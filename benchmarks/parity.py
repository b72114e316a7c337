"""Check that two checkouts train alike: ``python benchmarks/parity.py OLD NEW``

Trains the bundled policy for a few steps in each checkout, in several ways, and compares the rows
of ``metrics.jsonl``. All values except times must be equal to the last digit. A key that only one
checkout has is a difference, unless ``--gone`` names it. Checkouts from before every turn drew its
own random numbers do not train like later ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

WAYS = {
    "saar": [],
    "saar off": ["--saar", "off"],
    "purified": ["--credit", "purified"],
    "lora": ["--lora-rank", "4"],
}
TIMES = {"tokens_per_second", "sample_seconds", "step_seconds"}


@dataclass(frozen=True)
class Config:
    """Check that two checkouts train alike."""

    old: Annotated[Path, tyro.conf.Positional]
    """Checkout that serves as the reference."""
    new: Annotated[Path, tyro.conf.Positional]
    """Checkout that is checked."""
    steps: int = 3
    """Steps of each training."""
    ways: tuple[str, ...] = tuple(WAYS)
    """Which trainings to compare."""
    gone: tuple[str, ...] = ("not_finite_tokens",)
    """Keys that the new checkout may lack."""


def train(checkout: Path, run: Path, steps: int, arguments: list[str]) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl`` from a training with the code of a checkout."""
    command = [sys.executable, "-m", "cleaner_rl.train", "--steps", str(steps)]
    command += ["--eval-tasks", "0", "--run-dir", str(run), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} in {checkout} failed:\n{done.stdout}{done.stderr}")
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def differences(
    old: list[dict[str, Any]], new: list[dict[str, Any]], gone: tuple[str, ...]
) -> list[str]:
    """The differences between two trainings, one line each."""
    if len(old) != len(new):
        return [f"{len(old)} steps and {len(new)}"]
    found = []
    for before, after in zip(old, new, strict=True):
        for key in sorted((before.keys() | after.keys()) - TIMES):
            if key not in after and key in gone:
                continue
            if repr(before.get(key)) != repr(after.get(key)):
                found.append(f"step {before['step']} {key}: {before.get(key)}, {after.get(key)}")
    return found


def main() -> int:
    """Print the differences and return 1 when there are any."""
    config = tyro.cli(Config)
    failed = False
    for way in config.ways:
        with tempfile.TemporaryDirectory() as directory:
            rows = [
                train(checkout, Path(directory) / name, config.steps, WAYS[way])
                for name, checkout in (("old", config.old), ("new", config.new))
            ]
        found = differences(*rows, config.gone)
        values = sum(len(row.keys() - TIMES) for row in rows[0])
        print(f"{way}: " + (f"{len(found)} differ" if found else f"all {values} values are equal"))
        for line in found:
            print(f"    {line}")
        failed = failed or bool(found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
