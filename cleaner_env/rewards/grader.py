"""Grader: asks math-verify in processes that can be killed, from any thread or process.

math-verify bounds its time by SIGALRM, which works in a main thread only, and cannot stop what runs
in C. Here each comparison runs in a worker process under a deadline. A worker that hangs or crashes
is killed, the answer counts as wrong, and the fault is counted and warned about.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
import warnings
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCRIPT = Path(__file__).with_name("grader_worker.py")
_START_SECONDS = 60.0
"""A worker that is not ready by then (it imports sympy) is broken."""


class GraderWarning(RuntimeWarning):
    """Comparisons hung or crashed, and their answers were scored as wrong."""


class GraderError(RuntimeError):
    """No grader process can be started on this machine; nothing was scored."""


@dataclass(slots=True)
class GraderHealth:
    """Counts of a grader since its process began; ``seconds`` excludes the wait for a worker."""

    comparisons: int = 0
    timeouts: int = 0
    crashes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What math-verify makes of a reference and an answer.

    Attributes:
        equal: whether it finds them equal.
        values: the value of each, if it is a real number: a fraction, such as ``3/2``, or ``~`` and
            50 digits of an irrational number.
        seconds: the time that this took.
    """

    equal: bool
    values: tuple[str | None, str | None]
    seconds: float


class Grader:
    """A pool of worker processes, started when they are needed.

    Args:
        workers: most processes; more callers wait for one, each for a bounded time, since every
            comparison ends at its deadline.
        seconds: deadline of one comparison.
    """

    def __init__(self, workers: int | None = None, seconds: float = 5.0) -> None:
        count = min(4, os.cpu_count() or 1) if workers is None else workers
        if count < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        if not seconds > 0:
            raise ValueError(f"seconds must be above 0, not {seconds}")
        self.seconds = seconds
        self._count = count
        self._begin()
        me = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _begin_anew(me()))

    def _begin(self) -> None:
        self.health = GraderHealth()
        self._lock = threading.Lock()
        self._live: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._slots = threading.BoundedSemaphore(self._count)
        self._finalizer = weakref.finalize(self, _kill_all, self._live)  # at exit, too

    def begin_anew(self) -> None:
        """In a forked child: let go of the parent's workers, which are the parent's to end."""
        self._finalizer.detach()
        for worker in self._live:
            worker.forget()
        self._begin()

    def equal(self, gold: str, answer: str) -> bool:
        """Whether math-verify finds the answer equal to the reference; see ``ask``."""
        reply = self.ask(gold, answer)
        return reply is not None and reply.equal

    def ask(self, gold: str, answer: str, seconds: float | None = None) -> Reply | None:
        """What math-verify makes of a reference and an answer, both in TeX.

        None, with a ``GraderWarning`` now and then, if it takes more than ``seconds`` (by default
        the grader's own) or crashes.

        Raises:
            GraderError: no worker can be started.
        """
        with self._slots:
            worker = self._take()
            started = time.monotonic()
            reply: dict[str, Any] | str = "crash"
            try:
                reply = worker.ask(gold, answer, self.seconds if seconds is None else seconds)
            finally:
                self._give_back(worker, sound=isinstance(reply, dict))
            spent = time.monotonic() - started
            self._note(reply, spent, gold, answer)
        if isinstance(reply, str):
            return None
        return Reply(bool(reply["equal"]), tuple(reply["values"]), spent)

    def _take(self) -> _Worker:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        worker = _Worker()
        with self._lock:
            self._live.add(worker)
        return worker

    def _give_back(self, worker: _Worker, sound: bool) -> None:
        with self._lock:
            if sound and worker in self._live:
                self._idle.append(worker)
                return
            self._live.discard(worker)
        worker.kill()

    def _note(self, reply: dict[str, Any] | str, spent: float, gold: str, answer: str) -> None:
        with self._lock:
            health = self.health
            health.comparisons += 1
            health.seconds += spent
            health.timeouts += reply == "timeout"
            health.crashes += reply == "crash"
            faults = health.timeouts + health.crashes
        if isinstance(reply, str) and _is_round(faults):
            warnings.warn(
                f"{faults} of {health.comparisons} math comparisons hung or crashed "
                f"({health.timeouts} timeouts of {self.seconds:g} s) and were scored 0; the last: "
                f"{answer[:80]!r} against {gold[:80]!r}",
                GraderWarning,
                stacklevel=3,
            )

    def close(self) -> None:
        """End the idle workers. The grader starts new ones when it is used again."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._live.difference_update(idle)
        for worker in idle:
            worker.kill()


class _Worker:
    """One process, ready to compare."""

    def __init__(self) -> None:
        # -P: this file's directory is not on the path; the child sees no module of ours.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        if not isinstance(self._reply(_START_SECONDS), dict):
            self.kill()
            raise GraderError(
                "the process that compares math answers does not start; try: "
                f"{sys.executable} -c 'import math_verify', and pip install math-verify"
            )

    def ask(self, gold: str, answer: str, seconds: float) -> dict[str, Any] | str:
        """The reply, ``"timeout"`` or ``"crash"``."""
        assert self._process.stdin is not None
        request = json.dumps({"gold": gold, "answer": answer, "seconds": seconds}) + "\n"
        try:
            # The pipe is empty, and a request is shorter than a pipe is long: this does not block.
            os.write(self._process.stdin.fileno(), request.encode())
        except OSError:
            return "crash"
        return self._reply(seconds)

    def _reply(self, seconds: float) -> dict[str, Any] | str:
        """The next line, read without a buffer so that poll() sees all there is."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poller = select.poll()  # not select(): a large trainer has more than 1024 descriptors
        poller.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + seconds
        line = b""
        while not line.endswith(b"\n"):
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return "timeout"
            part = os.read(descriptor, 4096)
            if not part:
                return "crash"
            line += part
        reply: dict[str, Any] = json.loads(line)
        return reply

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.forget()

    def forget(self) -> None:
        """Close our ends of the pipes; a process that still lives is left to its own parent."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        if self._process.returncode is None:
            self._process.returncode = 0  # not a child of this process: nothing to wait for


def _kill_all(workers: set[_Worker]) -> None:
    for worker in workers:
        worker.kill()


def _begin_anew(grader: Grader | None) -> None:
    if grader is not None:
        grader.begin_anew()


def _is_round(count: int) -> bool:
    """1, 2, 5, 10, 20, 50, ...: often enough to be seen, not so often as to drown everything."""
    return str(count).rstrip("0") in ("1", "2", "5")


GRADER = Grader()
"""The grader that the math reward asks; each process has its own workers."""
