"""Ranks: the processes of a training, seen from one of them; a single process is one rank.

Every rank runs the same program on the same numbers and does its share of the playing and of the
passes. What only one of them may do, and what all have to agree on, goes through ``Ranks``, whose
methods every rank calls in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from rich.console import Console
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from cleaner_rl.distributed.interrupt import Interrupt
from cleaner_rl.errors import PolicyError, RankError, UserError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a rank's work came to.

    Attributes:
        result: of the work; None when it failed.
        message: of its error; empty when there was none.
        interrupted: by a signal.
    """

    result: Any = None
    message: str = ""
    interrupted: bool = False


class Ranks:
    """The processes of a torchrun, joined by torch.distributed; or one process, alone.

    Objects and counts go through gloo; shards and gradients through NCCL on CUDA, gloo on a CPU.

    Args:
        device: where this rank computes.

    Attributes:
        device: the same.
        rank: number of this process.
        size: how many there are.
        mesh: what weights are sharded over; None in a single process.
        united: whether all ranks have raised the error that ends the run. Without, this one may be
            alone with it, and what takes all, such as a checkpoint, would wait in vain.
    """

    def __init__(self, device: str = "auto") -> None:
        self.device = device
        self.rank = 0
        self.size = 1
        self.mesh: DeviceMesh | None = None
        self.united = True
        self._interrupt: Interrupt | None = None

    @classmethod
    def join(cls, device: torch.device, patience: float) -> Ranks:
        """Meet the other processes of the torchrun.

        Args:
            device: where this rank computes.
            patience: seconds that a rank waits for another one before it gives up. A rank that
                ended is noticed at once; this is for one that hangs.
        """
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=patience))
        ranks = cls(str(device))
        ranks.rank, ranks.size = dist.get_rank(), dist.get_world_size()
        ranks.mesh = init_device_mesh(device.type, (ranks.size,))
        ranks.united = False
        return ranks

    def leave(self) -> None:
        """Leave the others. Not for a rank that ends with an error of its own."""
        dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    @property
    def command(self) -> str:
        """The command that starts as many processes."""
        if self.size == 1:
            return "python"
        return f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', self.size)}"

    def console(self) -> Console | None:
        """Where this rank shows its progress; None for standard output."""
        return None if self.first else Console(quiet=True)

    def share(self, count: int) -> range:
        """This rank's part of ``count`` things: a stretch of them, as long as the others' or one
        longer."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def collect(self, work: Callable[[], T]) -> list[T]:
        """What each rank's ``work`` gives, in the order of ranks.

        Between ranks it is the place where signals take effect and errors are shared: when one
        rank's work fails or is interrupted, all raise, after the others' work has ended.

        Raises:
            KeyboardInterrupt: a rank was interrupted.
            RankError: another rank's work failed.
        """
        interrupt = self._interrupt
        if interrupt is None:
            return self.gather(work)

        def exposed() -> T:
            with interrupt.exposed():
                return work()

        return self.gather(exposed)

    def gather(self, work: Callable[[], T]) -> list[T]:
        """As ``collect``; signals wait."""
        error, mine = _attempt(work)
        outcomes = [mine]
        if self.size > 1:
            outcomes *= self.size
            dist.all_gather_object(outcomes, mine)
        self._raise_together(error, outcomes)
        return [outcome.result for outcome in outcomes]

    def together(self, work: Callable[[], T]) -> T:
        """What this rank's ``work`` gives; all raise when it fails on one of them."""
        results: list[T] = []
        self.gather(lambda: results.append(work()))
        return results[0]

    def on_first(self, work: Callable[[], T]) -> T:
        """What ``work`` gives on the first rank, for which the others wait; all raise when it
        fails there."""
        error, mine = _attempt(work) if self.first else (None, _Outcome())
        outcomes = [mine]
        if self.size > 1:
            dist.broadcast_object_list(outcomes, src=0)
        self._raise_together(error, outcomes)
        result: T = outcomes[0].result
        return result

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Each number added up over all ranks."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total)
        sums: list[float] = total.tolist()
        return sums

    def max(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        largest = torch.tensor(number)
        if self.size > 1:
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def lost_another(self, error: RuntimeError) -> bool:
        """Whether the error is that another rank ended or did not answer."""
        lost = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
        return self.size > 1 and lost

    @contextmanager
    def guarded(self, interrupt: Interrupt) -> Iterator[None]:
        """A block in which signals wait for the next ``collect``, where there are several ranks: a
        rank that left a common pass alone would leave the others hanging."""
        if self.size == 1:
            yield
            return
        self._interrupt = interrupt
        try:
            with interrupt.protected():
                yield
        finally:
            self._interrupt = None

    def _raise_together(self, error: BaseException | None, outcomes: list[_Outcome]) -> None:
        failed = [i for i, outcome in enumerate(outcomes) if outcome.message]
        if not failed and not any(outcome.interrupted for outcome in outcomes):
            return
        self.united = True
        if error is not None and not isinstance(error, KeyboardInterrupt):
            raise error
        if failed:
            raise RankError(f"rank {failed[0]}: {outcomes[failed[0]].message}")
        raise KeyboardInterrupt


def _attempt(work: Callable[[], Any]) -> tuple[BaseException | None, _Outcome]:
    """The error of this rank's work, if any, and what the others are told."""
    try:
        return None, _Outcome(work())
    except KeyboardInterrupt as error:
        return error, _Outcome(interrupted=True)
    except Exception as error:
        name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return error, _Outcome(message=f"{name}{error}" or type(error).__name__)


@contextmanager
def open_ranks(device: str, patience: float) -> Iterator[Ranks]:
    """The ranks of this process's torchrun; without torchrun, the one process.

    Args:
        device: ``--device``; ``cuda`` and ``auto`` give each process of a machine its own GPU.
        patience: see ``Ranks.join``.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield Ranks(device)
        return
    mine = _own_device(device)
    if mine.type == "cuda":
        torch.cuda.set_device(mine)
    ranks = Ranks.join(mine, patience)
    yield ranks
    ranks.leave()


def _own_device(device: str) -> torch.device:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    number, here = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if device not in ("auto", "cuda"):
        raise PolicyError(
            f"--device {device} would put every process on it; use auto, cuda or cpu with torchrun"
        )
    if number >= here:
        raise PolicyError(
            f"torchrun started more processes here than there are GPUs ({here}); lower "
            "--nproc-per-node, or use --device cpu"
        )
    return torch.device("cuda", number)


def partition(sizes: Sequence[int], hands: int) -> list[list[int]]:
    """Things of these sizes dealt to so many hands: indices, the sums of sizes about the same.

    The largest goes first, always to the hand that has least. One hand keeps their order.
    """
    if hands == 1:
        return [list(range(len(sizes)))]
    dealt: list[list[int]] = [[] for _ in range(hands)]
    held = [0] * hands
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        hand = min(range(hands), key=lambda h: (held[h], h))
        dealt[hand].append(index)
        held[hand] += sizes[index]
    return dealt
