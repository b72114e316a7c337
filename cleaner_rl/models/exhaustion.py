"""Exhaustion: a machine that ran out of memory, said as an error that names the flag to turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from cleaner_rl.errors import MemoryLimitError

Phase = Literal["sampling", "learning"]

_REMEDIES: dict[Phase, str] = {
    "sampling": "lower --sample-batch (sft: --eval-batch), the episodes that are decoded together",
    "learning": "lower --pack-tokens, add --gradient-checkpointing, or use more GPUs (torchrun)",
}
_CPU_ALLOCATOR = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


@contextmanager
def exhaustion_said(phase: Phase, device: torch.device) -> Iterator[None]:
    """A block whose failure for want of memory is told with its remedy.

    Args:
        phase: what the block does.
        device: on which.

    Raises:
        MemoryLimitError: the device or the machine has no memory left.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _memory(phase, device, error) from error
    except RuntimeError as error:
        # torch's CPU allocator has no type of error of its own.
        if not any(part in str(error) for part in _CPU_ALLOCATOR):
            raise
        raise _memory(phase, device, error) from error


def _memory(phase: Phase, device: torch.device, error: BaseException) -> MemoryLimitError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return MemoryLimitError(
        f"out of memory on {device} while {phase}: {_REMEDIES[phase]} (these may change when the "
        f"run is resumed). {reason}"
    )
