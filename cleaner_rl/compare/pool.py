"""WorkerPool: the runs of a comparison side by side, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

from cleaner_rl.compare.directory import PlannedRun
from cleaner_rl.compare.worker import Assignment, work

_CONTEXTS: dict[str, type[ForkServerContext] | type[SpawnContext]] = {
    "forkserver": ForkServerContext,
    "spawn": SpawnContext,
}
_TICK = 1.0
"""Seconds between two looks at the runs."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A place for one run at a time.

    Attributes:
        device: that its runs get.
        threads: of their computations on a CPU; 0 leaves them as they are.
    """

    device: str
    threads: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that did not reach its end.

    Attributes:
        run: which.
        reason: why, in a line.
    """

    run: PlannedRun
    reason: str


class WorkerPool:
    """Does runs, as many at a time as there are pool.

    Args:
        pool: where.
        method: how processes begin: ``forkserver`` saves each the imports; ``spawn`` for CUDA,
            which does not survive a fork.
        on_tick: called about once a second with the runs that are under way.
    """

    def __init__(
        self,
        pool: Sequence[Lane],
        method: Literal["forkserver", "spawn"],
        on_tick: Callable[[Sequence[PlannedRun]], None],
    ) -> None:
        self._free = list(pool)
        self._context = _CONTEXTS[method]()
        self._context.set_forkserver_preload(["cleaner_rl.compare.worker"])
        self._on_tick = on_tick
        self._active: dict[BaseProcess, tuple[PlannedRun, Lane]] = {}
        self._failures: list[Failure] = []

    def work_off(self, starts: Sequence[PlannedRun], runs: Sequence[PlannedRun]) -> list[Failure]:
        """Do all that are not finished; a run waits for its seed's start.

        A run that fails takes no other one with it, but those that wait for it.

        Returns:
            The runs that failed.

        Raises:
            KeyboardInterrupt: after a signal; the runs under way have saved their state.
        """
        start_of = {start.seed: start for start in starts}
        waiting = [run for run in (*starts, *runs) if not run.finished]
        try:
            while waiting or self._active:
                waiting = self._without_hopeless(waiting, start_of)
                for run in [run for run in waiting if run.is_start or start_of[run.seed].finished]:
                    if self._free:
                        waiting.remove(run)
                        self._begin(run, start_of[run.seed].path)
                wait([process.sentinel for process in self._active], timeout=_TICK)
                self._collect()
                self._on_tick([run for run, _ in self._active.values()])
        finally:
            self._stop()
        return self._failures

    def _begin(self, run: PlannedRun, start: Path) -> None:
        lane = self._free.pop(0)
        assignment = Assignment(run, start, lane.device, lane.threads)
        process = self._context.Process(target=work, args=(assignment,), name=run.name)
        process.start()
        self._active[process] = run, lane

    def _collect(self) -> None:
        for process in [process for process in self._active if not process.is_alive()]:
            run, lane = self._active.pop(process)
            process.join()
            self._free.append(lane)
            if not run.finished:
                reason = f"exit status {process.exitcode}: {_last_line(run.log)}"
                self._failures.append(Failure(run, reason))

    def _without_hopeless(
        self, waiting: Sequence[PlannedRun], start_of: dict[int, PlannedRun]
    ) -> list[PlannedRun]:
        failed = {failure.run.seed for failure in self._failures if failure.run.is_start}
        for run in waiting:
            if run.seed in failed:
                reason = f"its seed's first evaluation failed; see {start_of[run.seed].log}"
                self._failures.append(Failure(run, reason))
        return [run for run in waiting if run.seed not in failed]

    def _stop(self) -> None:
        """End what is under way, each after its update in progress."""
        for process in self._active:
            process.terminate()
        for process in self._active:
            process.join()
        self._active.clear()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
