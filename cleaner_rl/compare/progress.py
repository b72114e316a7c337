"""ComparisonProgress: all runs of a comparison at a glance, with the remaining time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import fmean

from rich.console import Console
from rich.progress import TaskID

from cleaner_rl.compare.directory import PlannedRun
from cleaner_rl.eval.held_out import is_due
from cleaner_rl.runs.evaluations import evaluated_steps
from cleaner_rl.runs.progress import Display, format_seconds
from cleaner_rl.runs.run_directory import evaluation_seconds, read_metrics

_INTERVAL = 60.0
"""Seconds between two lines if the output is not a terminal."""


class ComparisonProgress(Display):
    """A bar per run on a terminal; elsewhere a line when a run begins or ends, and every minute.

    It reads the files of all runs, including starts and runs of earlier sessions.
    """

    def __init__(
        self, runs: Sequence[PlannedRun], lanes: int, console: Console | None = None
    ) -> None:
        super().__init__(console)
        self._runs, self._lanes = runs, lanes
        self._under_way: list[PlannedRun] = []
        self._bars: dict[str, TaskID] = {}
        count = sum(not run.is_start for run in runs)
        self._all = self.bars.add_task("all", total=count, note="")
        self._last = time.monotonic()

    def tick(self, under_way: Sequence[PlannedRun]) -> None:
        """Show the present state of the runs."""
        for run in self._under_way:
            if run not in under_way:
                self.say(f"{run.name}: {'done' if run.finished else 'stopped'}; {self._total()}")
                self.bars.remove_task(self._bars.pop(run.name))
        for run in under_way:
            if run not in self._under_way:
                self.say(f"{run.name}: begins at step {run.steps_done}")
                self._bars[run.name] = self.bars.add_task(
                    run.name, total=run.config.steps, note=_state(run)
                )
        self._under_way = list(under_way)
        if self.console.is_terminal:
            for run in under_way:
                self.bars.update(self._bars[run.name], completed=run.steps_done, note=_state(run))
            done = sum(run.finished for run in self._runs if not run.is_start)
            self.bars.update(self._all, completed=done, note=self._total())
        elif time.monotonic() - self._last >= _INTERVAL:
            self._last = time.monotonic()
            states = ", ".join(f"{run.name} {_state(run)}" for run in under_way)
            self.say(f"{states}; {self._total()}")

    def _total(self) -> str:
        finished = [run.finished for run in self._runs if not run.is_start]
        left = seconds_left(self._runs, self._lanes)
        hint = "" if left is None else f", left {format_seconds(left)}"
        return f"{sum(finished)} of {len(finished)} runs done{hint}"


def seconds_left(runs: Sequence[PlannedRun], lanes: int) -> float | None:
    """Estimate of the remaining time from the steps and evaluations so far; None before there are
    any."""
    steps: list[float] = []
    evaluations: list[float] = []
    for run in runs:
        steps += [row["step_seconds"] for row in read_metrics(run.path)]
        own = [step for step in evaluated_steps(run.path) if step or run.is_start]
        evaluations += [evaluation_seconds(run.path, step) for step in own]
    steps_left = sum(run.config.steps - run.steps_done for run in runs if not run.is_start)
    evaluations_left = sum(map(_evaluations_left, runs))
    if (steps_left and not steps) or (evaluations_left and not evaluations):
        return None
    work = steps_left * fmean(steps or [0.0]) + evaluations_left * fmean(evaluations or [0.0])
    unfinished = sum(not run.finished for run in runs)
    return work / max(1, min(lanes, unfinished))


def _evaluations_left(run: PlannedRun) -> int:
    if run.is_start:
        return int(not run.finished)
    due = [step for step in range(1, run.config.steps + 1) if is_due(run.config, step)]
    return len(set(due) - set(evaluated_steps(run.path)))


def _state(run: PlannedRun) -> str:
    if run.is_start:
        return "evaluating the initial policy"
    return f"step {run.steps_done}/{run.config.steps}"
