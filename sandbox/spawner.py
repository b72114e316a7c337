"""The thread that starts jails: a jail dies with the thread that started it, so one that stays."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

from .errors import SandboxError

Job = tuple[Future[None], Callable[[], None]]


class Spawner:
    """Calls functions in one daemon thread.

    A daemon, because Python ends the threads of an Executor with the main thread, while other
    threads may still run programs.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        # The function and not a method: the thread must not keep its owner alive.
        threading.Thread(
            target=serve, args=(self._jobs,), name="sandbox-spawner", daemon=True
        ).start()

    def call(self, function: Callable[[], None]) -> None:
        """Call it there and wait; whether this returns or raises, it runs no more afterwards."""
        future: Future[None] = Future()
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            self._jobs.put((future, function))
        try:
            future.result()
        except BaseException:
            if not future.cancel():
                wait([future])  # interrupted half-way
            raise

    def close(self) -> None:
        """End the thread, and with it every jail that still lives; does not wait."""
        with self._lock:
            self._closed = True
        self._jobs.put(None)


def serve(jobs: queue.SimpleQueue[Job | None]) -> None:
    while job := jobs.get():
        future, function = job
        if future.set_running_or_notify_cancel():
            try:
                function()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)
        del job, future, function  # or the last worker would live as long as the thread
