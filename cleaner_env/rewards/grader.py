"""Grader: runs math-verify in processes that can be killed, for any thread or process.

math-verify limits its time with SIGALRM, which works only in the main thread and cannot interrupt
C code. Here, each comparison runs in a worker process under a deadline. A worker that hangs or
crashes is killed, the answer counts as wrong, and the fault is counted and warned about.
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
"""A worker that takes longer to start, and to import sympy, is taken for broken."""


class GraderWarning(RuntimeWarning):
    """Comparisons hung or crashed, so their answers were scored as wrong."""


class GraderError(RuntimeError):
    """No worker process can be started on this machine, so nothing was scored."""


@dataclass(slots=True)
class GraderHealth:
    """What a grader has done in this process; ``seconds`` excludes waiting for a worker."""

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
    """A pool of worker processes, each started when it is first needed.

    Args:
        workers: the most processes. Further callers wait until one is free, which cannot take
            forever, because every comparison has a deadline.
        seconds: the most time for one comparison.
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
        """In a forked child: forget the parent's workers, which only the parent may end."""
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
        """End the idle workers. If the grader is used again, it starts new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._live.difference_update(idle)
        for worker in idle:
            worker.kill()


class _Worker:
    """One process that can compare answers."""

    def __init__(self) -> None:
        # -P keeps this directory off the child's path, so that it imports no module of ours.
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
            # This does not block: the pipe is empty, and a request is smaller than its buffer.
            os.write(self._process.stdin.fileno(), request.encode())
        except OSError:
            return "crash"
        return self._reply(seconds)

    def _reply(self, seconds: float) -> dict[str, Any] | str:
        """The next line, read unbuffered so that poll() knows of everything that has arrived."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poller = select.poll()  # select() fails above 1024 descriptors, which a trainer can have
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
        """Close our ends of the pipes. A process that is still alive is left to its parent."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        if self._process.returncode is None:
            self._process.returncode = 0  # it is not our child, so there is nothing to wait for


def _kill_all(workers: set[_Worker]) -> None:
    for worker in workers:
        worker.kill()


def _begin_anew(grader: Grader | None) -> None:
    if grader is not None:
        grader.begin_anew()


def _is_round(count: int) -> bool:
    """Whether a count is 1, 2, 5, 10, 20, 50, ...: warnings are seen, but drown nothing."""
    return str(count).rstrip("0") in ("1", "2", "5")


GRADER = Grader()
"""The grader of the math reward. Each process has workers of its own."""
