"""Ranks: the processes of a training, seen from one of them; a single process is one rank.

Every rank runs the same program on the same numbers, and plays and computes its share. Whatever
only one rank may do, and whatever all must agree on, goes through ``Ranks``, whose methods every
rank calls in the same order.
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
    """How a rank's work ended.

    Attributes:
        result: what the work returned; None if it failed.
        message: its error message; empty if it did not fail.
        interrupted: whether a signal interrupted it.
    """

    result: Any = None
    message: str = ""
    interrupted: bool = False


class Ranks:
    """The processes of a torchrun, joined by torch.distributed, or a single process.

    Objects and counts go through gloo; shards and gradients through NCCL on CUDA, gloo on a CPU.

    Attributes:
        device: where this rank computes.
        rank: the number of this process.
        size: the number of processes.
        mesh: the device mesh that weights are sharded over; None in a single process.
        united: whether all ranks have raised the error that ends the run. If not, this rank may be
            the only one, and anything that needs all, such as a checkpoint, would wait in vain.
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
        """Connect to the other processes of the torchrun.

        Args:
            device: where this rank computes.
            patience: seconds that a rank waits for another before it gives up. This is for ranks
                that hang; one that has ended is noticed at once.
        """
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=patience))
        ranks = cls(str(device))
        ranks.rank, ranks.size = dist.get_rank(), dist.get_world_size()
        ranks.mesh = init_device_mesh(device.type, (ranks.size,))
        ranks.united = False
        return ranks

    def leave(self) -> None:
        """Disconnect from the others. Not for a rank that ends with an error of its own."""
        dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    @property
    def command(self) -> str:
        """The beginning of a command that starts as many processes; for each machine, if there are
        several."""
        if self.size == 1:
            return "python"
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        machines = ""
        if here < self.size:
            machines = f"--nnodes {self.size // here} --rdzv-backend c10d --rdzv-endpoint "
            machines += f"{os.environ['MASTER_ADDR']}:29500 "
        return f"torchrun {machines}--nproc-per-node {here}"

    def console(self) -> Console | None:
        """Where this rank shows its progress; None for standard output."""
        return None if self.first else Console(quiet=True)

    def share(self, count: int) -> range:
        """This rank's contiguous share of ``count`` items; shares differ in length by one at
        most."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def collect(self, work: Callable[[], T]) -> list[T]:
        """Do ``work`` on every rank and return all results, in the order of ranks.

        With several ranks, this is where signals take effect and errors are shared: if one rank's
        work fails or is interrupted, all ranks raise once the work of the others has ended.

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
        """Like ``collect``, but signals have to wait."""
        error, mine = _attempt(work)
        outcomes = [mine]
        if self.size > 1:
            outcomes *= self.size
            dist.all_gather_object(outcomes, mine)
        self._raise_together(error, outcomes)
        return [outcome.result for outcome in outcomes]

    def together(self, work: Callable[[], T]) -> T:
        """Do ``work`` on every rank and return this rank's result; all raise if it fails on one."""
        results: list[T] = []
        self.gather(lambda: results.append(work()))
        return results[0]

    def on_first(self, work: Callable[[], T]) -> T:
        """Do ``work`` on the first rank while the others wait, and return its result on all; all
        raise if it fails."""
        error, mine = _attempt(work) if self.first else (None, _Outcome())
        outcomes = [mine]
        if self.size > 1:
            dist.broadcast_object_list(outcomes, src=0)
        self._raise_together(error, outcomes)
        result: T = outcomes[0].result
        return result

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Each number summed over all ranks."""
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

    def lost_another(self, error: BaseException) -> bool:
        """Whether the error means that another rank ended or did not answer."""
        lost = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
        return self.size > 1 and isinstance(error, RuntimeError) and lost

    @contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """A block in which the loss of another rank is a ``RankError``."""
        try:
            yield
        except RuntimeError as error:
            if not self.lost_another(error):
                raise
            reason = f"rank {self.rank} lost another one, whose own message says why"
            raise RankError(reason) from error

    @contextmanager
    def guarded(self, interrupt: Interrupt) -> Iterator[None]:
        """A block in which signals wait for the next ``collect`` if there are several ranks: a rank
        that left a joint operation on its own would leave the others hanging."""
        if self.size == 1:
            yield
            return
        self._interrupt = interrupt
        try:
            with interrupt.protected(), self.naming_the_lost():
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
    """Do this rank's work; return its error, if any, and what to tell the others."""
    try:
        return None, _Outcome(work())
    except KeyboardInterrupt as error:
        return error, _Outcome(interrupted=True)
    except Exception as error:
        name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return error, _Outcome(message=f"{name}{error}" or type(error).__name__)


@contextmanager
def open_ranks(device: str, patience: float) -> Iterator[Ranks]:
    """The ranks of this process's torchrun; without torchrun, a single process.

    Args:
        device: ``--device``; with ``cuda`` and ``auto``, each process of a machine has its own GPU.
        patience: see ``Ranks.join``.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield Ranks(device)
        return
    mine = _own_device(device)
    if mine.type == "cuda":
        torch.cuda.set_device(mine)
    ranks = Ranks.join(mine, patience)
    with ranks.naming_the_lost():
        yield ranks
        ranks.leave()


def _own_device(device: str) -> torch.device:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    number, here = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if device not in ("auto", "cuda"):
        raise PolicyError(
            f"--device {device} would put all processes on one device; with torchrun, use auto, "
            "cuda or cpu"
        )
    if number >= here:
        raise PolicyError(
            f"torchrun started more processes here than there are GPUs ({here}); lower "
            "--nproc-per-node, or use --device cpu"
        )
    return torch.device("cuda", number)


def partition(sizes: Sequence[int], hands: int) -> list[list[int]]:
    """Divide items into ``hands`` lists of indices whose sums of ``sizes`` are about equal.

    Items are dealt largest first, always to the hand that holds least. One hand keeps their order.
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
