"""Progress: what a running command shows, on a terminal or in a log file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from cleaner_env.episode import Episode
from cleaner_env.transcripts import in_one_line


class Display(Progress):
    """Progress bars, on a terminal only, and permanent lines, on any output.

    A context manager. Each task has a field ``note``, which is shown after its bar.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console()
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            refresh_per_second=4,
            transient=True,
            disable=not console.is_terminal,
        )

    def say(self, text: str) -> None:
        """Print a permanent line."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)


class TrainingProgress(Display):
    """One bar for all steps, of which ``first`` were done before a resumption; a line per step."""

    def __init__(self, first: int, steps: int, console: Console | None = None) -> None:
        self._rollback = Text()
        super().__init__(console)
        self._first, self._steps = first, steps
        self._seconds = 0.0
        self._left = ""
        self._bar = self.add_task("steps", total=steps, completed=first, note="")

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        """Show what is being done within a step."""
        phase = f"{name} {done}/{total}" if total else name
        self.update(self._bar, note=f"{phase}  {self._left}")

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report a finished step."""
        self._seconds += metrics["step_seconds"]
        per_step = self._seconds / (step - self._first)
        self._left = f"left {format_seconds(per_step * (self._steps - step))}"
        self.say(
            f"step {step:>{len(str(self._steps))}}/{self._steps}  "
            f"reward {metrics['reward']:.3f}  failed calls {metrics['failed_calls']:.2f}  "
            f"first failed {metrics['first_call_failed']:.2f}  "
            f"rollbacks {metrics['triggered']:.2f}  {metrics['tokens_per_second']:.0f} tok/s  "
            f"{metrics['step_seconds']:.1f} s/step  {self._left}"
        )
        self.update(self._bar, completed=step)

    def rollback(self, episodes: Sequence[Episode]) -> None:
        """Show the last rollback of these episodes, on a terminal."""
        records = [record for episode in episodes for record in episode.rollbacks]
        if records:
            text = f"last rollback: {in_one_line(records[-1])}"
            self._rollback = Text(text, style="dim", no_wrap=True, overflow="ellipsis")
            self.refresh()

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, and the last rollback below it."""
        yield from super().get_renderables()
        yield self._rollback


class CountProgress(Display):
    """One bar on a terminal, a line every few seconds elsewhere, and a last line on both."""

    INTERVAL = 10.0
    """Seconds between two lines if the output is not a terminal."""

    def __init__(self, label: str, total: int, console: Console | None = None) -> None:
        super().__init__(console)
        self._label, self._total = label, total
        self._start = self._last = time.monotonic()
        self._bar = self.add_task(label, total=total, note="")

    def show(self, done: int, note: str = "") -> None:
        """Report that ``done`` of the total are done."""
        now = time.monotonic()
        elapsed = now - self._start
        left = format_seconds(elapsed / max(1, done) * (self._total - done))
        times = f"{format_seconds(elapsed)}, left {left}"
        self.update(self._bar, completed=done, note=f"{note.removeprefix(', ')}  {times}")
        overdue = not self.console.is_terminal and now - self._last >= self.INTERVAL
        if done >= self._total or overdue:
            self._last = now
            self.say(f"{self._label}: {done}/{self._total}{note}, {times}")


def format_seconds(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
