"""Bench: what an execution costs in a new process, in a jail of its own, and in the pool."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from .errors import SandboxError
from .health import quantile
from .jail import ENVIRONMENT, INTERPRETER_FLAGS, Jail
from .pool import LIGHT_PRELOAD, Sandbox
from .session import Session

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
        for line in ratios(rows):
            show(line)
        return rows
    finally:
        os.sched_setaffinity(0, cores)


def measure(runs: int, budget_s: float) -> Iterator[Row]:
    programs = {n: code for n, code in PROGRAMS.items() if n == "empty" or installed(n)}
    python = [sys.executable, *INTERPRETER_FLAGS, "-c"]
    with Sandbox(preload=()) as sandbox:  # finds the bubblewrap that works
        jailed = Jail("jail", sandbox.bwrap).prefix() if sandbox.bwrap else None
    for name, code in programs.items():
        yield Row("new process", name, timed(runs, budget_s, process([*python, code])))
        if jailed:
            call = process([*jailed, *python, code])
            yield Row("new bubblewrap", name, timed(runs, budget_s, call))
    heavy = ("numpy",) if "numpy" in programs else ()
    with Sandbox(preload=(*LIGHT_PRELOAD, *heavy)) as sandbox:
        for name in ("empty", *heavy):
            yield from pooled(sandbox, name, runs, budget_s)
        if sandbox.tier == "full":
            with sandbox.session() as session:
                times = timed(runs, budget_s, partial(printed, session, PROGRAMS["empty"]))
                yield Row("session cell", "empty", times)
    if "sympy" in programs:
        with Sandbox(preload=(*LIGHT_PRELOAD, *heavy, "sympy")) as sandbox:
            yield from pooled(sandbox, "sympy", runs, budget_s)


def pooled(sandbox: Sandbox, program: str, runs: int, budget_s: float) -> Iterator[Row]:
    """One call after the other, and with a pause before each in which the next child is forked."""
    for pause_s in (0.0, PAUSE_S):
        way = f"pool, {sandbox.tier}" + (", rested" if pause_s else "")
        call = partial(printed, sandbox, PROGRAMS[program])
        yield Row(way, program, timed(runs, budget_s, call, pause_s))


def printed(runner: Sandbox | Session, code: str) -> str:
    return runner.run(code).stdout


def ratios(rows: Sequence[Row]) -> Iterator[str]:
    """How many times faster the pool is than a bubblewrap for each execution, by medians."""
    median = {(row.way, row.program): quantile(sorted(row.times_s), 0.5) for row in rows}
    for (way, program), time_s in median.items():
        if way.startswith("pool") and ("new bubblewrap", program) in median:
            times = median["new bubblewrap", program] / time_s
            yield f"{way}, {program}: {times:.1f} times as fast as a new bubblewrap"


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


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
