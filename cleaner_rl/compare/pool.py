"""WorkerPool: the runs of a comparison in parallel, each in its own process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from cleaner_rl.compare.directory import PlannedRun
from cleaner_rl.compare.worker import work

_TICK = 1.0
"""Seconds between two checks of the runs."""
_USER_ERROR = 2


@dataclass(frozen=True, slots=True)
class Lane:
    """A place for one run at a time; ``threads`` for computing on a CPU, 0 for the default."""

    device: str
    threads: int


Failures = list[tuple[PlannedRun, str]]
"""Runs that did not finish, each with the reason in one line."""


class WorkerPool:
    """Does runs, as many at a time as there are lanes.

    Each run has a process and not a place in an executor, so a run that dies or is killed does not
    affect others. ``on_tick`` is called about once a second with the active runs.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        cuda: bool,
        on_tick: Callable[[Sequence[PlannedRun]], None],
    ) -> None:
        self._free = list(lanes)
        # CUDA does not survive a fork. Elsewhere a fork server spares each process the imports.
        self._context = get_context("spawn") if cuda else get_context("forkserver")
        self._context.set_forkserver_preload(["cleaner_rl.compare.worker"])
        self._on_tick = on_tick
        self._active: dict[BaseProcess, tuple[PlannedRun, Lane]] = {}
        self._failures: Failures = []

    def work_off(self, starts: Sequence[PlannedRun], runs: Sequence[PlannedRun]) -> Failures:
        """Do all unfinished runs, each after its seed's start, and return the failures.

        A signal raises ``KeyboardInterrupt`` once all active runs have saved their state.
        """
        start_of = {start.seed: start for start in starts}
        waiting = [run for run in (*starts, *runs) if not run.finished]
        try:
            while waiting or self._active:
                waiting = [run for run in waiting if not self._settle(run, start_of[run.seed])]
                wait([process.sentinel for process in self._active], timeout=_TICK)
                self._collect()
                self._on_tick([run for run, _ in self._active.values()])
        finally:
            self._stop()
        return self._failures

    def _settle(self, run: PlannedRun, start: PlannedRun) -> bool:
        """Start a run if it can start, or give it up; return False if it has to wait."""
        if not run.is_start and any(failed == start for failed, _ in self._failures):
            self._failures.append((run, f"its seed's first evaluation failed; see {start.log}"))
            return True
        if not self._free or not (run.is_start or start.finished):
            return False
        self._begin(run, start.path)
        return True

    def _begin(self, run: PlannedRun, start: Path) -> None:
        lane = self._free.pop(0)
        arguments = (run, start, lane.device, lane.threads)
        process = self._context.Process(target=work, args=arguments, name=run.name)
        process.start()
        self._active[process] = run, lane

    def _collect(self) -> None:
        for process in [process for process in self._active if not process.is_alive()]:
            run, lane = self._active.pop(process)
            process.join()
            self._free.append(lane)
            if not run.finished:
                reason = f"exit status {process.exitcode}: {_last_words(run.log, process.exitcode)}"
                self._failures.append((run, reason))

    def _stop(self) -> None:
        """End the active runs, each once it has finished an update in progress."""
        for process in self._active:
            process.terminate()
        for process in self._active:
            process.join()
        self._active.clear()


def _last_words(log: Path, status: int | None) -> str:
    """The line of a log that tells why its run ended."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if status == _USER_ERROR:  # instructions for resuming may follow the message
        lines = [line for line in lines if line.startswith("error: ")] or lines
    return lines[-1] if lines else "it printed nothing"
