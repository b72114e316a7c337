"""Who took the advantage of episodes whose first call failed, in the runs of a comparison.

    python benchmarks/slip_advantages.py runs/compare-tiny

Reads the groups that the training runs logged (the first of every step, with the default
--log-episodes 8), computes their advantages anew, and prints a table in Markdown: by arm, the mean
advantage of episodes whose first call worked, of those whose first call failed and was mended by
rollback, and of those in which the failed call stayed; ± one standard error over groups. docs/credit.md
says what these do to the probability of a failed call.
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
from cleaner_env.episode_file import read_episodes
from cleaner_rl.advantage import branched_advantages, group_advantages
from cleaner_rl.config import TrainConfig
from cleaner_rl.credit import splices

WORKED, MENDED, STAYED, BRANCH = "worked", "failed, mended", "failed, stayed", "branches"
CLASSES = (WORKED, MENDED, STAYED, BRANCH)
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Args:
    """Mean advantages by what became of the first call."""

    comparison: Annotated[Path, tyro.conf.Positional]
    """Directory of a comparison."""
    last: int = 0
    """Only the last so many steps of each run; 0 takes all."""


def kind_of(episode: Episode) -> str | None:
    """What became of the first call; None for an episode that did not begin with one."""
    first = episode.raw_turns[0]
    if first.ok is None:
        return None
    if first.ok:
        return WORKED
    return MENDED if episode.turns and episode.turns[0].ok else STAYED


def group_sums(episodes: list[Episode], config: TrainConfig) -> np.ndarray:
    """[class, (sum of advantages, members)] of one group."""
    sums = np.zeros((len(CLASSES), 2))
    rewards = [episode.reward for episode in episodes]
    advantages, branch, branches = group_advantages(rewards), 0.0, 0
    if config.credit == "branched" and config.saar == "on":
        branches = sum(len(splices(episode)) for episode in episodes)
        failure = config.wrong_reward - config.failure_penalty
        advantages, branch = branched_advantages(rewards, branches, failure)
    for episode, advantage in zip(episodes, advantages, strict=True):
        kind = kind_of(episode)
        if kind is not None:
            sums[CLASSES.index(kind)] += (advantage, 1)
    sums[CLASSES.index(BRANCH)] += (branch * branches, branches)
    return sums


def groups_of(run: Path, last: int) -> Iterator[np.ndarray]:
    """The sums of every logged group of a run that is whole."""
    config = TrainConfig.load(run / "config.json")
    for file in sorted((run / "episodes").glob("step-*.jsonl"))[-last:]:
        episodes = [e for e in read_episodes(file) if not e.faulted][: config.group_size]
        if len(episodes) == config.group_size and len({e.task.prompt for e in episodes}) == 1:
            yield group_sums(episodes, config)


def main(args: Args) -> None:
    """Print a row for each arm."""
    arms = sorted(path for path in (args.comparison / "runs").glob("*") if path.is_dir())
    if not arms:
        raise SystemExit(f"{args.comparison} holds no runs; name the directory of a comparison")
    random = np.random.default_rng(0)
    print(f"| arm | groups | first call failed | {' | '.join(CLASSES)} |")
    print("|---" * (3 + len(CLASSES)) + "|")
    for arm in arms:
        runs = sorted(path.parent for path in arm.glob("seed-*/config.json"))
        groups = np.array([sums for run in runs for sums in groups_of(run, args.last)])
        if not len(groups):
            print(f"{arm}: no whole group was logged", file=sys.stderr)
            continue
        draws = random.integers(len(groups), size=(_RESAMPLES, len(groups)))
        sums, spread = groups.sum(axis=0), groups[draws].sum(axis=1)
        counts = sums[:, 1]
        failed = counts[1:3].sum() / counts[:3].sum()
        cells = [
            f"{sums[i, 0] / counts[i]:+.3f} ± {np.nanstd(spread[:, i, 0] / spread[:, i, 1]):.3f}"
            if counts[i] >= 30
            else "-"
            for i in range(len(CLASSES))
        ]
        print(f"| {arm.name} | {len(groups)} | {failed:.1%} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
