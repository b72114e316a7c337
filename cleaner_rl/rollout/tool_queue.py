"""Tool queue: turns whose programs run in threads, and when their episodes continue."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass

from cleaner_env.completion import Completion
from cleaner_rl.rollout.runner import EpisodeRunner
from cleaner_rl.settings import Schedule

_TURNS_A_TICK = 4
"""Programs assumed to finish while one token is decoded."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A turn being stepped, and the clock tick from which its episode may continue."""

    runner: EpisodeRunner
    due: int
    future: Future[None]


class ToolQueue:
    """Steps turns in threads while other turns are sampled.

    The clock counts decoding steps, not seconds. With the ``reproducible`` schedule, the tick at
    which an episode continues depends on the tokens alone: on how many programs were running when
    its turn ended. If its program is not done by then, sampling waits for it. So the same seeds
    give the same batches and the same numbers to the bit, however long programs take. With
    ``eager``, an episode continues as soon as its program is done: a slow program delays no other
    episode, but the last bits of log-probabilities differ from run to run, because different turns
    share a batch.

    Attributes:
        waited: seconds during which sampling waited for programs.
    """

    def __init__(self, threads: Executor, schedule: Schedule) -> None:
        self.waited = 0.0
        self._threads = threads
        self._eager = schedule == "eager"
        self._steps: list[_Step] = []

    def __bool__(self) -> bool:
        return bool(self._steps)

    def put(self, runner: EpisodeRunner, turn: Completion, clock: int) -> None:
        """Step a turn that has ended."""
        due = clock + 1 + len(self._steps) // _TURNS_A_TICK
        self._steps.append(_Step(runner, due, self._threads.submit(runner.step, turn)))

    def take(self, clock: int, idle: bool) -> list[EpisodeRunner]:
        """The runners whose episodes continue or have ended, in the order of their turns.

        Args:
            clock: now.
            idle: nothing is being sampled, so the clock stands still: wait for a program.
        """
        if not self._steps:
            return []
        began = time.monotonic()
        if self._eager:
            if idle:
                wait([step.future for step in self._steps], return_when=FIRST_COMPLETED)
            ready = [step for step in self._steps if step.future.done()]
        else:
            now = max(clock, min(step.due for step in self._steps)) if idle else clock
            ready = [step for step in self._steps if step.due <= now]
        for step in ready:
            step.future.result()
        self.waited += time.monotonic() - began
        self._steps = [step for step in self._steps if step not in ready]
        return [step.runner for step in ready]

    def close(self) -> None:
        """Cancel programs that have not started and wait for the others."""
        for step in self._steps:
            step.future.cancel()
        wait([step.future for step in self._steps])
        self._steps.clear()
