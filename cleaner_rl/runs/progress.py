"""Progress: what a person sees of a running command, on a terminal or in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table


class Display:
    """A live display on a terminal, and lines that stay, there as where the output is none.

    Args:
        console: where to write; standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._live = Live(console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)


class TrainingProgress(Display):
    """A live display on a terminal; one plain line a step where the output is no terminal.

    Args:
        first: steps done before this session.
        steps: steps in all.
        console: where to write; standard output by default.
    """

    def __init__(self, first: int, steps: int, console: Console | None = None) -> None:
        super().__init__(console)
        self._first, self._steps = first, steps
        self._seconds = 0.0
        self._done = first
        self._phase = ""
        self._metrics: Mapping[str, float] = {}

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        """What is going on within a step."""
        self._phase = f"{name} {done}/{total}" if total else name
        self._refresh()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step is done."""
        self._done, self._metrics = step, metrics
        self._seconds += metrics["step_seconds"]
        self.say(self._line())
        self._refresh()

    def _line(self) -> str:
        m = self._metrics
        return (
            f"step {self._done:>{len(str(self._steps))}}/{self._steps}  "
            f"reward {m['reward']:.3f}  failed calls {m['failed_calls']:.2f}  "
            f"first failed {m['first_call_failed']:.2f}  rollbacks {m['triggered']:.2f}  "
            f"{m['tokens_per_second']:.0f} tok/s  {m['step_seconds']:.1f} s/step  "
            f"left {format_seconds(self._left())}"
        )

    def _left(self) -> float:
        done = self._done - self._first
        return self._seconds / done * (self._steps - self._done) if done else 0.0

    def _refresh(self) -> None:
        if not self.console.is_terminal:
            return
        table = Table.grid(padding=(0, 2))
        share = self._done / self._steps
        bar = "█" * int(share * 30) + "░" * (30 - int(share * 30))
        left = f"left {format_seconds(self._left())}" if self._done > self._first else ""
        table.add_row(bar, f"{self._done}/{self._steps}", self._phase, left)
        self._live.update(table)


class CountProgress:
    """A line that is rewritten on a terminal, and a plain line now and then elsewhere.

    Args:
        label: what is counted.
        total: how many there are.
        stream: where to write; standard output by default.
    """

    INTERVAL = 10.0
    """Seconds between two lines where the output is no terminal."""

    def __init__(self, label: str, total: int, stream: TextIO | None = None) -> None:
        self._label, self._total = label, total
        self._stream = stream or sys.stdout
        self._start = self._last = time.monotonic()
        self._live = self._stream.isatty()

    def show(self, done: int, note: str = "") -> None:
        """``done`` of the total are done."""
        now = time.monotonic()
        finished = done >= self._total
        if not finished and now - self._last < (0.2 if self._live else self.INTERVAL):
            return
        self._last = now
        elapsed = now - self._start
        left = format_seconds(elapsed / max(1, done) * (self._total - done))
        line = f"{self._label}: {done}/{self._total}{note}, {format_seconds(elapsed)}, left {left}"
        end = "\n" if finished or not self._live else ""
        print(f"\r\x1b[2K{line}" if self._live else line, end=end, file=self._stream, flush=True)


def format_seconds(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
