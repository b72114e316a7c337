"""ComparisonProgress: all runs of a comparison at a glance, with the remaining time."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import TaskID

from cleaner_rl.compare.directory import PlannedRun
from cleaner_rl.runs.progress import Display, format_seconds

_INTERVAL = 60.0
"""Seconds between two lines if the output is not a terminal."""


class ComparisonProgress(Display):
    """A bar per run on a terminal; elsewhere a line when a run begins or ends, and every minute."""

    def __init__(self, runs: Sequence[PlannedRun], console: Console | None = None) -> None:
        super().__init__(console)
        self._runs = [run for run in runs if not run.is_start]
        self._done_before = self._steps_done()
        self._under_way: list[PlannedRun] = []
        self._bars: dict[str, TaskID] = {}
        self._all = self.add_task("all", total=len(self._runs), note="")
        self._began = self._last = time.monotonic()

    def tick(self, under_way: Sequence[PlannedRun]) -> None:
        """Show the present state of the runs."""
        for run in self._under_way:
            if run not in under_way:
                self.say(f"{run.name}: {'done' if run.finished else 'stopped'}; {self._total()}")
                self.remove_task(self._bars.pop(run.name))
        for run in under_way:
            if run not in self._under_way:
                self.say(f"{run.name}: begins at step {run.steps_done}")
                self._bars[run.name] = self.add_task(
                    run.name, total=run.config.steps, note=_state(run)
                )
        self._under_way = list(under_way)
        if self.console.is_terminal:
            for run in under_way:
                self.update(self._bars[run.name], completed=run.steps_done, note=_state(run))
            done = sum(run.finished for run in self._runs)
            self.update(self._all, completed=done, note=self._total())
        elif time.monotonic() - self._last >= _INTERVAL:
            self._last = time.monotonic()
            states = ", ".join(f"{run.name} {_state(run)}" for run in under_way)
            self.say(f"{states}; {self._total()}")

    def _total(self) -> str:
        """How many runs are done, and the time left at the pace of this session's steps."""
        done, runs = self._steps_done() - self._done_before, self._runs
        left = sum(run.config.steps for run in runs) - self._steps_done()
        pace = (time.monotonic() - self._began) / max(1, done)
        hint = f", left {format_seconds(pace * left)}" if done else ""
        return f"{sum(run.finished for run in runs)} of {len(runs)} runs done{hint}"

    def _steps_done(self) -> int:
        return sum(run.steps_done for run in self._runs)


def _state(run: PlannedRun) -> str:
    if run.is_start:
        return "evaluating the initial policy"
    return f"step {run.steps_done}/{run.config.steps}"
