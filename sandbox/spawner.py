"""Threads that work for others: no signal handler interrupts them, and they stay.

Ctrl-C raises KeyboardInterrupt in the main thread, between any two steps of it: what it has just
opened would be lost. And a jail dies with the thread that started it.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from typing import Any, TypeVar

from .errors import SandboxError

T = TypeVar("T")
Job = tuple[Future[Any], Callable[[], Any]]


class Spawner:
    """Calls functions in one daemon thread.

    A daemon, because Python ends the threads of an Executor with the main thread, while other
    threads may still run programs.
    """

    def __init__(self, name: str = "sandbox-spawner") -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self.closed = False
        # The function and not a method: the thread must not keep its owner alive.
        threading.Thread(target=serve, args=(self._jobs,), name=name, daemon=True).start()

    def post(self, function: Callable[[], T], future: Future[T]) -> None:
        """Call it there, later, for the future's result."""
        with self._lock:
            if self.closed:
                raise SandboxError("the sandbox is closed")
            self._jobs.put((future, function))

    def call(self, function: Callable[[], T]) -> T:
        """Call it there and wait. If the caller is interrupted, it is called all the same."""
        future: Future[T] = Future()
        self.post(function, future)
        return future.result()

    def close(self) -> None:
        """End the thread, and with it every jail that still lives; does not wait."""
        with self._lock:
            self.closed = True
            self._jobs.put(None)


def serve(jobs: queue.SimpleQueue[Job | None]) -> None:
    while job := jobs.get():
        future, function = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
        del job, future, function  # or the last worker would live as long as the thread


class Stop:
    """How to stop what another thread does for a caller that no longer wants it."""

    def __init__(self) -> None:
        self.asked = False
        self._how: Callable[[], object] = lambda: None

    def by(self, how: Callable[[], object]) -> None:
        """Set how, from now on; stops at once if that was asked for already."""
        self._how = how
        if self.asked:
            how()

    def now(self) -> None:
        self.asked = True
        self._how()


class Shelter:
    """Does the work of the main thread in a thread that no interrupt reaches.

    Other threads do their own. An interrupted caller has the work stopped and waits for its end;
    one that is interrupted again returns at once, and the work ends in the background.
    """

    def __init__(self, spawner: Spawner):
        self._pid = os.getpid()
        self._spawner = spawner  # stops what the other thread does
        self._hand = Spawner("sandbox-shelter")

    def call(self, work: Callable[[Stop], T]) -> T:
        stop, future = Stop(), Future[T]()
        main = threading.current_thread() is threading.main_thread() and os.getpid() == self._pid
        if not main or self._hand.closed:
            return work(stop)

        def act() -> T:
            if stop.asked:
                raise CancelledError
            return work(stop)

        try:
            self._hand.post(act, future)
            return future.result()
        except BaseException:
            stop.asked = True  # at once, or work would begin that was waiting
            if not future.cancel() and not future.done():
                self._spawner.post(stop.now, Future())
                wait([future])
            raise

    def close(self) -> None:
        """End the thread after the work that it is doing; does not wait for that."""
        self._hand.close()
