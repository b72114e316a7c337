"""Interrupt: Ctrl-C and SIGTERM stop a run between two changes of the policy, never during one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BOUNCE = 1.0
"""Seconds in which a further signal belongs to the first: torchrun passes on its own Ctrl-C."""


class Interrupt:
    """Raises ``KeyboardInterrupt`` on a signal: at once, or at the end of a protected block.

    The first signal prints ``notice``. A second Ctrl-C ends the process, whatever it is doing. Use
    as a context manager around a run. Outside the main thread it changes nothing.
    """

    def __init__(self, notice: str = "") -> None:
        self._notice = notice
        self._first: float | None = None
        self._protected = False
        self._pending = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            if self._notice:
                os.write(2, f"\n{self._notice}; Ctrl-C again stops at once\n".encode())
        elif now - self._first < _BOUNCE:
            return
        elif number == signal.SIGINT:
            show_cursor = b"\x1b[?25h" if os.isatty(2) else b""  # a progress bar hides it
            os.write(2, show_cursor + b"\nstopped at once\n")
            os._exit(130)
        if self._protected:
            self._pending = True
        else:
            raise KeyboardInterrupt

    @contextmanager
    def protected(self) -> Iterator[None]:
        """A block in which signals have to wait; they take effect when it ends."""
        before, self._protected = self._protected, True
        try:
            yield
        finally:
            self._protected = before
        if not before:
            self._take_effect()

    @contextmanager
    def exposed(self) -> Iterator[None]:
        """A block inside a protected one in which signals take effect at once."""
        before, self._protected = self._protected, False
        try:
            self._take_effect()
            yield
        finally:
            self._protected = before

    def _take_effect(self) -> None:
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt
