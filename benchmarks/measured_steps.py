"""Measured steps of a trainer: what the two sides of benchmarks/vs_trl.py share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Args:
    """Train the bundled policy with TRL and with this project, taking steps in turn."""

    steps: int = 12
    """Steps that each trainer takes."""
    discard: int = 2
    """Warm-up steps at the beginning, left out of the figures."""
    prompts: int = 16
    """Problems per step."""
    group_size: int = 8
    """Episodes for each problem."""
    max_turns: int = 4
    """Most turns of an episode."""
    max_turn_tokens: int = 128
    """Most tokens of a turn."""
    max_response_tokens: int = 512
    """Most tokens of an episode after its prompt."""
    learning_rate: float = 2e-4
    """Learning rate of AdamW, after three warm-up steps."""
    micro_batch: int = 16
    """Episodes in each of TRL's forward and backward passes; one update per step uses them all."""
    threads: int = 2
    """Number of torch threads in each process."""
    seed: int = 0
    """Seed of problems and sampling."""
    show: int = 0
    """How many conversations of TRL's first step to print."""

    def __post_init__(self) -> None:
        if not 0 <= self.discard < self.steps:
            raise SystemExit("--discard must be smaller than --steps")
        if self.prompts * self.group_size % self.micro_batch:
            raise SystemExit("--micro-batch must divide --prompts times --group-size")

    @property
    def episodes(self) -> int:
        """Episodes per step."""
        return self.prompts * self.group_size


@dataclass(frozen=True)
class Step:
    """What one step of one trainer cost and produced.

    Attributes:
        seconds: from the choice of problems to the updated weights.
        sampling: the part of them until all episodes had ended and been scored.
        generating, tools: the parts of sampling in the model and in programs, where the trainer
            reports them.
        reward, calls, failed, answered, tokens: means over the step's episodes.
        cpu: processor seconds of the process and its descendants.
        memory: peak resident MiB of the process so far.
        others: MiB of its descendants at the end of the step.
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
"""A trainer. It sends "ready"; then, for each message, it takes a step and sends its ``Step``."""


class Usage:
    """Resources that this process and its descendants use, from one step to the next."""

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
    """Wait until the parent asks for a step; end the process when the parent is gone."""
    try:
        parent.recv()
    except EOFError:
        raise SystemExit(1) from None
