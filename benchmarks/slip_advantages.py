"""Measure who took the advantage in episodes whose first call failed, in runs of a comparison.

    python benchmarks/slip_advantages.py runs/compare-tiny

Reads the groups that the training runs logged (the first of every step, with the default
--log-episodes 8), recomputes their advantages, and prints a Markdown table. For each arm it gives
the mean advantage of four classes: episodes whose first call worked, episodes whose failed first
call was repaired by rollback, episodes in which it stayed, and the branches that first calls left.

The last column is the push of the arm's rule on a failing first call. With a the advantage that a
first call takes in the loss, and p the share of first calls that fail, it is the sum of a over
failing first calls less p times the sum over all, per episode. A positive push makes failures
likelier: it is g of docs/credit.md in a world with one context. ± is one standard error,
resampling groups as if they were independent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from cleaner_env.episode import Episode
from cleaner_env.episode_io import read_episodes
from cleaner_rl.config import TrainConfig
from cleaner_rl.grpo.credit import splices
from cleaner_rl.runs.markdown import table
from cleaner_rl.train import compared

WORKED, REPAIRED, STAYED, BRANCH = "worked", "failed, repaired", "failed, stayed", "their branches"
CLASSES = (WORKED, REPAIRED, STAYED, BRANCH)
_RESAMPLES = 1000
Taken = tuple[float, bool]


@dataclass(frozen=True, slots=True)
class Args:
    """Mean advantages, by what became of the first call."""

    comparison: Annotated[Path, tyro.conf.Positional]
    """Directory of a comparison."""
    last: int = 0
    """Use only this many steps at the end of each run; 0 uses all."""


def kind_of(episode: Episode) -> str | None:
    """What became of the first call; None for an episode that did not begin with one."""
    first = episode.raw_turns[0]
    if first.ok is None:
        return None
    if first.ok:
        return WORKED
    return REPAIRED if episode.turns and episode.turns[0].ok else STAYED


def trained(kind: str, advantage: float, branch: float | None, rule: str) -> list[Taken]:
    """The advantages that an episode's first call takes in the loss, each with whether it failed.

    Args:
        kind: what became of the call.
        advantage: the episode's advantage.
        branch: the advantage of the branch that the call left when a splice took it away; None
            without a splice.
        rule: the credit rule; "off" without rollback.
    """
    spliced, stayed = branch is not None, kind == STAYED
    if spliced and rule == "contrastive" and advantage < 0:
        return [(advantage, True)]
    if spliced and rule == "positive":
        return [(max(advantage, 0.0), stayed)]
    if spliced and rule == "branched":
        return [(advantage, stayed), (branch or 0.0, True)]
    return [(advantage, stayed)]


def group_sums(episodes: list[Episode], config: TrainConfig) -> np.ndarray:
    """[class, (sum of advantages, members)] of one group; the last two classes hold what failing
    first calls, and all first calls, take in the loss."""
    sums = np.zeros((len(CLASSES) + 2, 2))
    rewards = [episode.reward for episode in episodes]
    rule = config.credit if config.episode.saar == "on" else "off"
    group = compared(episodes, rewards, config)
    branch = group.branch_advantage
    for episode, advantage in zip(episodes, group.advantages, strict=True):
        kind = kind_of(episode)
        if kind is None:
            continue
        spliced = any(record.position == 0 for record in splices(episode))
        sums[CLASSES.index(kind)] += (advantage, 1)
        if spliced and rule == "branched":
            sums[CLASSES.index(BRANCH)] += (branch, 1)
        for taken, failed in trained(kind, advantage, branch if spliced else None, rule):
            sums[-1] += (taken, 1)
            sums[-2] += (taken * failed, failed)
    return sums


def push(sums: np.ndarray) -> np.ndarray:
    """Push on the probability that the first call fails, per episode, from sums [..., class, 2]."""
    counts = sums[..., :3, 1]
    failing = counts[..., 1:].sum(axis=-1) / counts.sum(axis=-1)
    pushes: np.ndarray = (sums[..., -2, 0] - failing * sums[..., -1, 0]) / counts.sum(axis=-1)
    return pushes


def groups_of(run: Path, last: int) -> Iterator[np.ndarray]:
    """The sums of every complete group that a run logged."""
    config = TrainConfig.load(run / "config.json")
    if config.episode.saar not in ("on", "off"):
        return
    for file in sorted((run / "episodes").glob("step-*.jsonl"))[-last:]:
        episodes = [e for e in read_episodes(file) if not e.faulted][: config.group_size]
        if len(episodes) == config.group_size and len({e.task.prompt for e in episodes}) == 1:
            yield group_sums(episodes, config)


def main(args: Args) -> None:
    """Print one row per arm."""
    arms = sorted(path for path in (args.comparison / "runs").glob("*") if path.is_dir())
    if not arms:
        raise SystemExit(f"{args.comparison} has no runs; name the directory of a comparison")
    rows = []
    for arm in arms:
        runs = sorted(path.parent for path in arm.glob("seed-*/config.json"))
        groups = np.array([sums for run in runs for sums in groups_of(run, args.last)])
        if not len(groups):
            print(f"{arm.name}: no complete group was logged", file=sys.stderr)
            continue
        draws = np.random.default_rng(0).integers(len(groups), size=(_RESAMPLES, len(groups)))
        sums, spread = groups.sum(axis=0), groups[draws].sum(axis=1)
        calls = sums[:3, 1].sum()
        cells = [
            f"{sums[i, 0] / sums[i, 1]:+.3f} ± {np.std(spread[:, i, 0] / spread[:, i, 1]):.3f}"
            f" ({sums[i, 1]:.0f})"
            if sums[i, 1] >= 30
            else "-"
            for i in range(len(CLASSES))
        ]
        cells.append(f"{push(sums):+.3f} ± {np.std(push(spread)):.3f}")
        failing = sums[1:3, 1].sum() / calls
        rows.append([arm.name, len(groups), f"{calls:.0f}", f"{failing:.1%}", *cells])
    print(table(["arm", "groups", "first calls", "that fail", *CLASSES, "push"], rows), end="")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
