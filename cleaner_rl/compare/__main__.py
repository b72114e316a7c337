"""Comparisons: ``python -m cleaner_rl.compare`` trains several ways and reports the differences."""

from __future__ import annotations

if __name__ == "__main__":  # arguments are checked before the imports below, which take seconds
    from cleaner_rl.commands import start

    start("compare")

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cleaner_rl.compare.analysis import compare
from cleaner_rl.compare.arms import ARMS, Arm
from cleaner_rl.compare.config import CompareConfig, parse_compare
from cleaner_rl.compare.directory import PLAN, ComparisonDirectory, PlannedRun
from cleaner_rl.compare.plots import write_plots
from cleaner_rl.compare.pool import Failures, Lane, WorkerPool
from cleaner_rl.compare.progress import ComparisonProgress
from cleaner_rl.compare.report import report
from cleaner_rl.config import TrainConfig
from cleaner_rl.distributed.interrupt import Interrupt
from cleaner_rl.errors import CheckpointError
from cleaner_rl.models.policy import resolve_device
from cleaner_rl.runs.files import write_json, write_whole
from cleaner_rl.runs.lock import reserved
from cleaner_rl.runs.provenance import made_with
from cleaner_rl.settings import change, flat
from cleaner_rl.trainer import load_source

DONE, FAILED, INTERRUPTED = 0, 1, 130
"""Exit statuses besides 2, which ``run_command`` gives for a ``UserError``."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; see ``CompareConfig`` for its exit statuses."""
    config, arms = parse_compare(arguments)
    directory = ComparisonDirectory(config.directory)
    if config.report_only:
        print(f"report: {write_report(directory)}")
        return DONE
    for split in ("train", "test"):
        load_source(config.train.tasks, split, config.train.seed, config.train.episode)
    lanes_of(config, 1)  # refuses a device that is not there before anything is written
    directory.require_comparison()
    with reserved(directory.path):
        # Seed by seed, so that arms can be compared early.
        runs = [directory.run(config, arm, seed) for seed in config.seed_list for arm in arms]
        for run in runs:
            run.require_same_settings()
        plan = {
            "command": shlex.join(["python", "-m", "cleaner_rl.compare", *arguments]),
            "arms": [arm.name for arm in arms],
            "seeds": config.seed_list,
            "config": flat(config.train),
            "made_with": made_with(),
        }
        write_json(directory.path / PLAN, plan)
        try:
            failures = _work_off(directory, config, runs)
        except KeyboardInterrupt:
            print(f"stopped; the same command continues {directory.path}", file=sys.stderr)
            return INTERRUPTED
        for run, reason in failures:
            print(
                f"{run.name} failed, {reason} (log: {run.log}); the same command tries it again",
                file=sys.stderr,
            )
        if any(run.finished for run in runs):
            print(f"report: {write_report(directory)}")
            there = {path.name for path in directory.path.glob("runs/*") if path.is_dir()}
            others = there - {arm.name for arm in arms}
            if others:
                print(
                    f"(of the arms of this command; {', '.join(sorted(others))} are there as well: "
                    "name them with --arms to have them in it)"
                )
    return FAILED if failures else DONE


def _work_off(
    directory: ComparisonDirectory, config: CompareConfig, runs: Sequence[PlannedRun]
) -> Failures:
    """Do all runs that are not finished; the evaluations that they begin with come first."""
    begun = {run.seed for run in runs if not run.finished}
    starts = [directory.start(config, seed) for seed in sorted(begun)]
    for start in starts:
        start.require_same_settings()
    lanes = lanes_of(config, len(runs))
    cuda = any(resolve_device(lane.device).type == "cuda" for lane in lanes)
    notice = "stopping: every run finishes its update and saves its last whole step"
    with Interrupt(notice), ComparisonProgress([*starts, *runs]) as progress:
        progress.say(
            f"{len(runs)} runs in {directory.path}, {len(lanes)} at a time; each prints to a log "
            "beside its directory"
        )
        return WorkerPool(lanes, cuda, progress.tick).work_off(starts, runs)


def lanes_of(config: CompareConfig, runs: int) -> list[Lane]:
    """The places that so many runs have on this machine.

    On a CPU runs with one thread each are quickest: threads of one run wait for each other, which
    small models feel.
    """
    named = [name.strip() for name in config.devices.split(",") if name.strip()]
    devices, cores = named or [config.train.device], len(os.sched_getaffinity(0))
    on_cpu = [resolve_device(device).type == "cpu" for device in devices]
    jobs = [config.jobs or (min(cores, runs) if cpu else 1) for cpu in on_cpu]
    sharing = sum(n for n, cpu in zip(jobs, on_cpu, strict=True) if cpu)
    threads = max(1, cores // max(1, sharing))
    return [
        Lane(device, threads if cpu else 0)
        for device, n, cpu in zip(devices, jobs, on_cpu, strict=True)
        for _ in range(n)
    ]


def write_report(directory: ComparisonDirectory) -> Path:
    """Compute everything from the files of the runs and write it; returns the report's path."""
    plan = directory.read_plan()
    config = CompareConfig(seeds=len(plan["seeds"]), train=change(TrainConfig(), **plan["config"]))
    arms = [ARMS[name] for name in plan["arms"]]
    complete, missing = _complete(directory, config, arms)
    results = {**compare(complete), "missing": missing, "made_with": plan["made_with"]}
    write_json(directory.path / "results.json", results)
    write_plots(results, directory.path)
    path = directory.path / "report.md"
    write_whole(path, report(results, plan, f"Comparison {directory.path.name}"))
    return path


def _complete(
    directory: ComparisonDirectory, config: CompareConfig, arms: Sequence[Arm]
) -> tuple[dict[str, list[PlannedRun]], list[str]]:
    """The finished runs of each arm, for the seeds that all arms have, and what is left out."""
    runs = {arm.name: [directory.run(config, arm, s) for s in config.seed_list] for arm in arms}
    finished = {name: {r.seed for r in of_arm if r.finished} for name, of_arm in runs.items()}
    seen = {name: seeds for name, seeds in finished.items() if seeds}
    common = set.intersection(*seen.values()) if seen else set()
    if not common:
        raise CheckpointError(
            f"no seed of the comparison in {directory.path} is finished in all its arms; the same "
            "command without --report-only continues it"
        )
    complete = {name: [r for r in runs[name] if r.seed in common] for name in seen}
    every = [run for of_arm in runs.values() for run in of_arm]
    missing = [run.name for run in every if run not in complete.get(run.arm, [])]
    return complete, missing
