"""How a pool is doing: Health, and the meter that counts."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

REMEMBERED = 1_000  # executions that the quantiles are taken over
QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Health:
    """A moment of a pool's life.

    workers      programs that may run at the same time
    running      programs that run now
    waiting      callers that wait for their turn
    executions   programs that ran to an end, whatever it was
    faults       times that a worker broke; nothing to do with what programs did
    restarts     workers that were thrown away, after a fault, for age, or because their tier
                 wants a new one each time
    latency_ms   quantiles 0.5, 0.9 and 0.99 over the last 1,000 executions, waiting not included;
                 empty before the first
    """

    workers: int
    running: int
    waiting: int
    executions: int
    faults: int
    restarts: int
    latency_ms: dict[float, float]


class Meter:
    """Counts what happens in a pool. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latencies_s: deque[float] = deque(maxlen=REMEMBERED)
        self.executions = self.faults = self.restarts = 0

    def execution(self, seconds: float) -> None:
        with self._lock:
            self.executions += 1
            self._latencies_s.append(seconds)

    def fault(self) -> None:
        with self._lock:
            self.faults += 1

    def restart(self) -> None:
        with self._lock:
            self.restarts += 1

    def read(self, workers: int, free: int, waiting: int) -> Health:
        with self._lock:
            times = sorted(self._latencies_s)
            return Health(
                workers=workers,
                running=workers - free,
                waiting=waiting,
                executions=self.executions,
                faults=self.faults,
                restarts=self.restarts,
                latency_ms={q: quantile(times, q) * 1e3 for q in QUANTILES if times},
            )


def quantile(ordered: list[float], q: float) -> float:
    """The smallest value that at least the share `q` of the values does not exceed."""
    return ordered[max(0, -int(-q * len(ordered) // 1) - 1)]
