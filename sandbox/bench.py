"""Bench: what an execution costs in a new process, in a jail of its own, and in the pool."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .errors import SandboxError
from .health import quantile
from .jail import ENVIRONMENT, INTERPRETER_FLAGS, Jail
from .pool import LIGHT_PRELOAD, Sandbox

PROGRAMS = {
    "empty": "print(42)",
    "numpy": "import numpy; print(numpy.arange(8).sum() + 14)",
    "sympy": "import sympy; x = sympy.Symbol('x'); print(sympy.diff(x**2, x).subs(x, 21))",
}
PAUSE_S = 0.03  # long enough to fork the next child ahead
HEADER = f"{'way':<24}{'program':<9}{'runs':>5}{'p50 ms':>9}{'p90 ms':>9}{'p99 ms':>9}{'per s':>8}"


@dataclass(frozen=True, slots=True)
class Row:
    """Times of one program, run in one way, in seconds from call to result."""

    way: str
    program: str
    times_s: list[float]

    def __str__(self) -> str:
        ordered = sorted(self.times_s)
        quantiles = "".join(f"{quantile(ordered, q) * 1e3:>9.2f}" for q in (0.5, 0.9, 0.99))
        rate = len(ordered) / sum(ordered)
        return f"{self.way:<24}{self.program:<9}{len(ordered):>5}{quantiles}{rate:>8.1f}"


def bench(runs: int, budget_s: float, show: Callable[[str], None] = print) -> list[Row]:
    """Measure on one core, one call at a time; at most `budget_s` seconds for each row.

    Raises SandboxError when a program does not print what it should.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        show(HEADER)
        rows = []
        for row in measure(runs, budget_s):
            rows.append(row)
            show(str(row))
        return rows
    finally:
        os.sched_setaffinity(0, cores)


def measure(runs: int, budget_s: float) -> Iterator[Row]:
    programs = {n: code for n, code in PROGRAMS.items() if n == "empty" or installed(n)}
    python = [sys.executable, *INTERPRETER_FLAGS, "-c"]
    with Sandbox() as sandbox:  # finds the bubblewrap that works
        jailed = Jail("jail", sandbox.bwrap).prefix() if sandbox.bwrap else None
    for name, code in programs.items():
        yield Row("new process", name, timed(runs, budget_s, process([*python, code])))
        if jailed:
            call = process([*jailed, *python, code])
            yield Row("new bubblewrap", name, timed(runs, budget_s, call))
    preload = (*LIGHT_PRELOAD, *(name for name in programs if name != "empty"))
    with Sandbox(preload=preload) as sandbox:
        for pause_s in (0.0, PAUSE_S):
            way = f"pool, {sandbox.tier}" + (", rested" if pause_s else "")
            for name, code in programs.items():
                times = timed(runs, budget_s, pooled(sandbox, code), pause_s)
                yield Row(way, name, times)


def timed(runs: int, budget_s: float, call: Callable[[], str], pause_s: float = 0.0) -> list[float]:
    times: list[float] = []
    call()  # the first one warms the caches
    while len(times) < runs and (sum(times) < budget_s or not times):
        time.sleep(pause_s)
        start = time.perf_counter()
        output = call()
        times.append(time.perf_counter() - start)
        if output != "42\n":
            raise SandboxError(f"a program of the bench printed {output!r}")
    return times


def process(command: Sequence[str]) -> Callable[[], str]:
    def call() -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
        return done.stdout

    return call


def pooled(sandbox: Sandbox, code: str) -> Callable[[], str]:
    return lambda: sandbox.run(code).stdout


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
