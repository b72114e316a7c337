"""Line: the queue of callers that wait for a free slot, first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import Generic, TypeVar

from .errors import QueueFull, SandboxError
from .spawner import Stop

Slot = TypeVar("Slot")


class Line(Generic[Slot]):
    """Lends slots; at most `max_waiting` callers wait, and one more gets QueueFull.

    Of several free slots, the one that was given back last is lent first: its caches are warm.
    """

    def __init__(self, slots: list[Slot], max_waiting: int):
        self._free = slots
        self._max_waiting = max_waiting
        self._waiting: deque[Future[Slot]] = deque()
        self._lock = threading.Lock()
        self._closed = False

    def __len__(self) -> int:
        """Callers that wait."""
        with self._lock:
            return sum(not turn.cancelled() for turn in self._waiting)

    @property
    def free(self) -> int:
        return len(self._free)

    def ask(self) -> Future[Slot]:
        """A slot, now or later. To give it up, cancel the future, or give the slot back."""
        turn: Future[Slot] = Future()
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            if self._free:
                turn.set_result(self._free.pop())
                return turn
            self._waiting = deque(turn for turn in self._waiting if not turn.cancelled())
            if len(self._waiting) >= self._max_waiting:
                raise QueueFull(
                    f"{self._max_waiting} callers wait already. Call less often, or make the "
                    "Sandbox with more workers or a larger max_waiting."
                )
            self._waiting.append(turn)
        return turn

    def take(self, stop: Stop | None = None) -> Slot:
        """Wait for a slot; raises CancelledError when the caller no longer wants it."""
        turn = self.ask()
        if stop:
            stop.by(turn.cancel)
        try:
            return turn.result()
        except BaseException:
            self.leave(turn)
            raise

    def leave(self, turn: Future[Slot]) -> None:
        """Give up a place in the queue, or the slot that has come meanwhile."""
        if not turn.cancel() and turn.exception() is None:
            self.give(turn.result())

    def give(self, slot: Slot) -> None:
        with self._lock:
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(slot)
                    return
            self._free.append(slot)

    def close(self) -> None:
        """Everyone who waits, and everyone who asks from now on, gets SandboxError."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
        for turn in waiting:
            if turn.set_running_or_notify_cancel():
                turn.set_exception(SandboxError("the sandbox is closed"))
