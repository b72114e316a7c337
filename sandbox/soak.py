"""Soak: many mixed executions, some hostile, workers killed meanwhile; nothing may grow."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import SandboxError
from .hostile import GREEDY, HOSTILE, INNOCENT, PLAIN
from .pool import Sandbox
from .result import Limits, Result, Status

ROUNDS = 10
SHOWN = 10  # wrong results, in full
THREADS = 6
CELLS = 20  # of one session; a tenth of the work is done in sessions
TASKS = 4  # calls in flight of the asyncio caller, which does a quarter of the work
SHORT_LIMITS = Limits(wall_s=0.3, memory_mb=128)
LONG_LIMITS = Limits(wall_s=20.0, cpu_s=20.0, memory_mb=128)
MEMORY_SLACK = 1.25, 16.0  # times, and MiB: what allocators and page tables may do
GREEDY_LIMITS = Limits(wall_s=2.0, memory_mb=128)
Program = tuple[str, Status | None, str]  # code, its status (None: any), and what it prints when ok
PLACEHOLDER = "import time; time.sleep(0.2)"  # holds a worker
HEADER = (
    f"{'done':>7}{'wrong':>7}{'killed':>8}{'faults':>8}{'p50 ms':>8}{'p99 ms':>8}"
    f"{'fds':>6}{'processes':>11}{'host MiB':>10}{'jails MiB':>11}"
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the host and the jails hold while nothing runs."""

    fds: int
    processes: int
    host_mb: float
    jails_mb: float


class Soak:
    """`wrong` lists the executions that did not end as they must; `samples` has one a round.

    greedy   whether programs take part that use up what others need, and others that need it
    """

    def __init__(
        self,
        sandbox: Sandbox,
        hostile_share: float = 0.05,
        seed: int = 0,
        greedy: bool = False,
    ):
        self.sandbox = sandbox
        self.greedy = greedy
        self.hostile_share = hostile_share
        self.random = random.Random(seed)
        self.wrong: list[str] = []
        self.samples: list[Sample] = []
        self.done = self.killed = 0
        self._counting = threading.Lock()

    def run(self, executions: int, kill_every_s: float, show: Callable[[str], None]) -> bool:
        """Whether every result was right and nothing grew after the first round."""
        show(HEADER)
        shown = 0
        for number in range(ROUNDS):
            share = executions * (number + 1) // ROUNDS - executions * number // ROUNDS
            with self._killing(kill_every_s):
                self._round([self._program() for _ in range(share)])
            self.samples.append(self._quiet_sample())
            show(self._line())
            for text in self.wrong[shown:SHOWN]:
                show(text)
            shown = len(self.wrong)
        for text in self.growth():
            show(text)
        return not self.wrong and not self.growth()

    def growth(self) -> list[str]:
        """What the last sample holds more of than the first."""
        first, last = self.samples[0], self.samples[-1]
        lines = []
        for name in ("fds", "processes", "host_mb", "jails_mb"):
            before, after = getattr(first, name), getattr(last, name)
            times, plus = MEMORY_SLACK if name.endswith("mb") else (1, 0)
            if after > before * times + plus:
                lines.append(f"{name} grew from {before:.0f} to {after:.0f}")
        return lines

    def _program(self) -> Program:
        if self.random.random() < self.hostile_share:
            if self.greedy and self.random.random() < 0.5:
                return self.random.choice(GREEDY), None, ""
            code = self.random.choice(list(HOSTILE))
            if self.sandbox.tier == "landlock" and "os.fork" in code:
                code = "import os; os.fork()"
                return code, Status.ERROR, ""
            return code, HOSTILE[code], ""
        number = self.random.randrange(10**6)
        code = self.random.choice(INNOCENT) if self.greedy else PLAIN
        if self.sandbox.tier == "landlock" and "multiprocessing" in code:
            code = PLAIN
        return code.replace("{number}", str(number)), Status.OK, f"{number * 2} []\n"

    def _round(self, programs: list[Program]) -> None:
        quarter = len(programs) // 4
        cells = len(programs) // 10 if self.sandbox.tier == "full" else 0
        with ThreadPoolExecutor(THREADS + 3, "soak") as threads:
            others = [
                threads.submit(asyncio.run, self._arun_all(programs[:quarter])),
                threads.submit(self._sessions, cells, self.random.random(), hostile=False),
            ]
            if self.greedy:
                seed = self.random.random()
                others.append(threads.submit(self._sessions, cells, seed, hostile=True))
            list(threads.map(self._run, programs[quarter + cells :]))
            for other in others:
                other.result()

    def _sessions(self, count: int, seed: float, hostile: bool) -> None:
        """Sessions of a few cells. Of the others a fifth fail and the rest add up; hostile ones end
        somehow."""
        draw = random.Random(seed)
        for first in range(0, count, CELLS):
            total = 0
            with self.sandbox.session(GREEDY_LIMITS if hostile else LONG_LIMITS) as session:
                for _ in range(min(CELLS, count - first)):
                    number = draw.randrange(1000)
                    cell: Program = f"x = 1; x += {number}; 1 / 0", Status.ERROR, ""
                    if hostile:
                        cell = draw.choice([*GREEDY, *HOSTILE]), None, ""
                    elif draw.random() > 0.2:
                        total += number
                        code = f"x = globals().get('x', 0) + {number}; print(x)"
                        cell = (code, Status.OK, f"{total}\n")
                    with self._checked(cell) as check:
                        check(session.run(cell[0]))

    def _run(self, program: Program) -> None:
        with self._checked(program) as check:
            check(self.sandbox.run(program[0], limits=limits_of(program[1])))

    async def _arun_all(self, programs: list[Program]) -> None:
        gate = asyncio.Semaphore(TASKS)

        async def one(program: Program) -> None:
            async with gate:
                with self._checked(program) as check:
                    check(await self.sandbox.arun(program[0], limits=limits_of(program[1])))

        await asyncio.gather(*map(one, programs))

    @contextmanager
    def _checked(self, program: Program) -> Iterator[Callable[[Result], None]]:
        """Count a program, and note when it raises, or the result that is given is wrong."""
        code, status, stdout = program
        fault = ""

        def check(result: Result) -> None:
            nonlocal fault
            if status is None or (
                result.status is status and (not result.ok or stdout == result.stdout)
            ):
                return
            fault = f"ended as {result.status}: {result.traceback or result.stdout!r}"

        try:
            yield check
        except SandboxError as error:
            fault = f"raised {error!r}"
        with self._counting:
            self.done += 1
            if fault:
                self.wrong.append(f"wrong: {code[:100]!r} {fault[:500]}")

    @contextmanager
    def _killing(self, every_s: float) -> Iterator[None]:
        """Meanwhile, kill a worker now and then; never when `every_s` is 0."""
        stop = threading.Event()

        def kill_some() -> None:
            pause_s = min(every_s, 0.1)  # at least one in every round
            while not stop.wait(pause_s):
                pause_s = every_s
                for pid in self.sandbox.worker_pids()[:1]:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
                    self.killed += 1

        thread = threading.Thread(target=kill_some)
        if every_s:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            if every_s:
                thread.join()

    def _quiet_sample(self) -> Sample:
        # As many programs as workers, so that each slot holds a live worker when it is counted.
        with ThreadPoolExecutor(self.sandbox.workers) as threads:
            list(threads.map(self.sandbox.run, [PLACEHOLDER] * self.sandbox.workers))
        threading.Event().wait(0.2)  # the next children are forked
        gc.collect()
        pids = [p for pid in self.sandbox.worker_pids() for p in (pid, *descendants(pid))]
        return Sample(
            fds=len(os.listdir("/proc/self/fd")),
            processes=len(descendants(os.getpid())),
            host_mb=resident_mb(os.getpid()),
            jails_mb=sum(map(resident_mb, pids)),
        )

    def _line(self) -> str:
        health, last = self.sandbox.health(), self.samples[-1]
        return (
            f"{self.done:>7}{len(self.wrong):>7}{self.killed:>8}{health.faults:>8}"
            f"{health.latency_ms[0.5]:>8.1f}{health.latency_ms[0.99]:>8.1f}{last.fds:>6}"
            f"{last.processes:>11}{last.host_mb:>10.1f}{last.jails_mb:>11.1f}"
        )


def limits_of(status: Status | None) -> Limits:
    """Short for a program that would not end; long enough for others on a busy machine."""
    if status is None:
        return GREEDY_LIMITS
    return SHORT_LIMITS if status is Status.TIMEOUT else LONG_LIMITS


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            text = children.read_text()
        except OSError:
            continue  # it ended meanwhile
        for child in map(int, text.split()):
            found += [child, *descendants(child)]
    return found


def resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
