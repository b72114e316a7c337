"""Ranks: the processes of a training, seen from one of them; a single process is one rank.

Every rank runs the same program on the same numbers and does its share of the playing and of the
passes. What only one of them may do, and what all have to agree on, goes through ``Ranks``, whose
methods every rank calls in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from cleaner_rl.distributed.interrupt import Interrupt
from cleaner_rl.errors import PolicyError, RankError, UserError

T = TypeVar("T")


class Ranks:
    """One process, alone. ``TorchRanks`` gives the same methods to many.

    Args:
        device: ``--device`` of this process.

    Attributes:
        device: the same.
        rank: number of this process.
        size: how many there are.
        mesh: what weights are sharded over; None in a single process.
        united: whether all ranks have raised the error that ends the run. Without, this one may be
            alone with it, and what takes all, such as a checkpoint, would wait in vain.
    """

    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None
    united: bool = True

    def __init__(self, device: str = "auto") -> None:
        self.device = device

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    @property
    def command(self) -> str:
        """The command that starts as many processes."""
        return "python"

    def console(self) -> Console | None:
        """Where this rank shows its progress; None for standard output."""
        return None

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
        return [work()]

    def gather(self, work: Callable[[], T]) -> list[T]:
        """As ``collect``; signals wait.

        Raises:
            RankError: another rank's work failed.
        """
        return [work()]

    def together(self, work: Callable[[], T]) -> T:
        """What this rank's ``work`` gives; all raise when it fails on one of them.

        Raises:
            RankError: another rank's work failed.
        """
        return work()

    def on_first(self, work: Callable[[], T]) -> T:
        """What ``work`` gives on the first rank; the others wait for it.

        Raises:
            RankError: it failed there.
        """
        return work()

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Each number added up over all ranks."""
        return list(numbers)

    def max(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        return number

    def lost_another(self, error: RuntimeError) -> bool:
        """Whether the error is that another rank ended or did not answer."""
        return False

    def guarded(self, interrupt: Interrupt) -> AbstractContextManager[object]:
        """A block in which signals wait for the next ``collect``, where there are several ranks: a
        rank that left a common pass alone would leave the others hanging."""
        return nullcontext()


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


class TorchRanks(Ranks):
    """The processes of a torchrun, joined by torch.distributed.

    Objects and counts go through gloo; shards and gradients through NCCL on CUDA, gloo on a CPU.

    Args:
        device: where this rank computes.
        patience: seconds that a rank waits for another one before it gives up. A rank that ended
            is noticed at once; this is for one that hangs.
    """

    def __init__(self, device: torch.device, patience: float) -> None:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=patience))
        super().__init__(str(device))
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.mesh = init_device_mesh(device.type, (self.size,))
        self.united = False
        self._interrupt: Interrupt | None = None

    @property
    def command(self) -> str:
        return f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', self.size)}"

    def console(self) -> Console | None:
        return None if self.first else Console(quiet=True)

    def close(self) -> None:
        """Leave the others. Not for a rank that ends with an error of its own."""
        dist.destroy_process_group()

    def collect(self, work: Callable[[], T]) -> list[T]:
        error, mine = self._attempt(work, self._interrupt.exposed() if self._interrupt else None)
        return [outcome.result for outcome in self._exchange(error, mine)]

    def gather(self, work: Callable[[], T]) -> list[T]:
        error, mine = self._attempt(work)
        return [outcome.result for outcome in self._exchange(error, mine)]

    def together(self, work: Callable[[], T]) -> T:
        error, mine = self._attempt(work)
        self._exchange(error, replace(mine, result=None))
        result: T = mine.result
        return result

    def on_first(self, work: Callable[[], T]) -> T:
        error, mine = self._attempt(work) if self.first else (None, _Outcome())
        outcomes = [mine]
        dist.broadcast_object_list(outcomes, src=0)
        self._raise_together(error, outcomes)
        result: T = outcomes[0].result
        return result

    def sum(self, numbers: Sequence[float]) -> list[float]:
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total)
        sums: list[float] = total.tolist()
        return sums

    def max(self, number: int) -> int:
        largest: Tensor = torch.tensor(number)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def lost_another(self, error: RuntimeError) -> bool:
        return isinstance(error, dist.DistError) or "gloo" in str(error).lower()

    @contextmanager
    def guarded(self, interrupt: Interrupt) -> Iterator[None]:
        self._interrupt = interrupt
        try:
            with interrupt.protected():
                yield
        finally:
            self._interrupt = None

    def _attempt(
        self, work: Callable[[], Any], waits: AbstractContextManager[object] | None = None
    ) -> tuple[BaseException | None, _Outcome]:
        """The error of this rank's work, if any, and what the others are told."""
        try:
            with waits or nullcontext():
                return None, _Outcome(work())
        except KeyboardInterrupt as error:
            return error, _Outcome(interrupted=True)
        except Exception as error:
            name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            return error, _Outcome(message=f"{name}{error}" or type(error).__name__)

    def _exchange(self, error: BaseException | None, mine: _Outcome) -> list[_Outcome]:
        """What every rank's work came to."""
        outcomes: list[Any] = [None] * self.size
        dist.all_gather_object(outcomes, mine)
        self._raise_together(error, outcomes)
        return outcomes

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


def launched_ranks() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def open_ranks(device: str, patience: float) -> Iterator[Ranks]:
    """The ranks of this process's torchrun; without torchrun, the one process.

    Args:
        device: ``--device``; ``cuda`` and ``auto`` give each process of a machine its own GPU.
        patience: see ``TorchRanks``.

    Raises:
        PolicyError: there are more processes than GPUs, or a device of one is asked for by all.
    """
    if launched_ranks() == 1:
        yield Ranks(device)
        return
    mine = _own_device(device)
    if mine.type == "cuda":
        torch.cuda.set_device(mine)
    ranks = TorchRanks(mine, patience)
    yield ranks
    ranks.close()


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
