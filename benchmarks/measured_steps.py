"""Steps of a trainer, measured: what the two sides of benchmarks/vs_trl.py share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Args:
    """Train the bundled policy with TRL and with this project, step by step in turn."""

    steps: int = 12
    """Steps of each trainer."""
    discard: int = 2
    """First steps that do not count in the figures."""
    prompts: int = 16
    """Problems in a step."""
    group_size: int = 8
    """Episodes for each problem."""
    max_turns: int = 4
    """Turns of an episode."""
    max_turn_tokens: int = 128
    """Tokens of one turn."""
    max_response_tokens: int = 512
    """Tokens of an episode after its prompt."""
    learning_rate: float = 2e-4
    """Of AdamW, after three steps of warm-up."""
    micro_batch: int = 16
    """Episodes in one of TRL's forward and backward passes; one update a step takes them all."""
    threads: int = 2
    """Of torch, in each process."""
    seed: int = 0
    """Of problems and sampling."""
    show: int = 0
    """Conversations of TRL's first step that are printed."""

    def __post_init__(self) -> None:
        if not 0 <= self.discard < self.steps:
            raise SystemExit("--discard must be smaller than --steps")
        if self.prompts * self.group_size % self.micro_batch:
            raise SystemExit("--micro-batch must divide --prompts times --group-size")

    @property
    def episodes(self) -> int:
        """Episodes of a step."""
        return self.prompts * self.group_size


@dataclass(frozen=True)
class Step:
    """What a step of one trainer took and gave.

    Attributes:
        seconds: from the choice of problems to the updated weights.
        sampling: of these, until all episodes had ended and been scored.
        generating, tools: of these, in the model and in programs, where the trainer tells.
        reward, calls, failed, answered, tokens: means over the step's episodes.
        cpu: processor seconds of the process and of those that it had started.
        memory: peak resident MiB of the process so far.
        others: MiB of the processes that it had started, at the end of the step.
    """

    seconds: float
    sampling: float
    reward: float
    calls: float
    failed: float
    answered: float
    tokens: float
    cpu: float
    memory: float
    others: float
    generating: float = 0.0
    tools: float = 0.0


Arm = Callable[[Args, Connection], None]
"""A trainer: sends "ready", then for each message that it receives takes a step and sends it."""


class Usage:
    """What this process and its descendants use of the machine, from one step to the next."""

    def __init__(self) -> None:
        self._spent = self._seconds()

    def step(self) -> dict[str, float]:
        """``cpu``, ``memory`` and ``others`` of a ``Step`` that ends now."""
        before, self._spent = self._spent, self._seconds()
        status = Path("/proc/self/status").read_text().split()
        held = sum(process.memory_full_info().pss for process in self._others())
        peak = int(status[status.index("VmHWM:") + 1])
        return {"cpu": self._spent - before, "memory": peak / 2**10, "others": held / 2**20}

    def _seconds(self) -> float:
        import psutil

        everyone = [psutil.Process(), *self._others()]
        return sum(sum(process.cpu_times()[:4]) for process in everyone)

    def _others(self) -> list[Any]:
        import psutil

        return list(psutil.Process().children(recursive=True))


def wait(parent: Connection) -> None:
    """Until the parent wants a step; the process ends when there is no parent any more."""
    try:
        parent.recv()
    except EOFError:
        raise SystemExit(1) from None
