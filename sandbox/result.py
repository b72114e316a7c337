"""What goes into an execution and what comes out of it: Limits, Status, Result."""

from __future__ import annotations

import enum
import math
import signal
from codecs import getincrementaldecoder
from dataclasses import dataclass


class Status(enum.StrEnum):
    """How an execution ended, as the kernel and the parent saw it.

    ERROR or MEMORY is the program's own word: a program that fails can pass for the other one.
    """

    OK = "ok"  # exit status 0
    ERROR = "error"  # uncaught exception, syntax error, non-zero exit status
    TIMEOUT = "timeout"  # wall or CPU time used up
    MEMORY = "memory"  # an uncaught MemoryError
    OUTPUT = "output"  # wrote more than Limits.output_bytes to stdout or stderr
    SIGNAL = "signal"  # killed by a signal that was not ours, such as SIGSEGV
    INTERNAL = "internal"  # the sandbox failed; only in records, run() raises SandboxError instead


LARGEST = {
    "wall_s": 1_000_000,
    "cpu_s": 1_000_000,
    "memory_mb": 1 << 30,
    "output_bytes": 1 << 30,
    "processes": 1 << 20,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds for one execution.

    wall_s        seconds of real time, from the program's first instruction on
    cpu_s         seconds of CPU time of each process, rounded up to whole seconds by the kernel
    memory_mb     MiB of address space of each process, on top of what the warm interpreter uses
    output_bytes  bytes kept of stdout, and as many of stderr; one byte more stops the program
    processes     processes and threads that may exist at the same time, the program included

    Raises ValueError, naming the field, when a value is not a positive number (whole for
    memory_mb, output_bytes and processes), or more than LARGEST, which the kernel can hold.
    """

    wall_s: float = 4.0
    cpu_s: float = 4.0
    memory_mb: int = 512
    output_bytes: int = 16_384
    processes: int = 16

    def __post_init__(self) -> None:
        for name in ("wall_s", "cpu_s"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value <= 0:
                raise ValueError(
                    f"Limits.{name} must be a positive number of seconds, not {value!r}"
                )
        for name in ("memory_mb", "output_bytes", "processes"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
                raise ValueError(f"Limits.{name} must be a positive whole number, not {value!r}")
        for name, largest in LARGEST.items():
            if getattr(self, name) > largest:
                raise ValueError(
                    f"Limits.{name} must be at most {largest:,}, not {getattr(self, name)!r}"
                )


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one execution.

    stdout, stderr    text, at most Limits.output_bytes and a mark where more was written; what is
                      not UTF-8 is shown as U+FFFD
    traceback         what Python prints for a script "main.py" that fails, shortened in the middle
                      when very long; one line of the same form for a limit or a signal; else ""
    error_class       "NameError", "SystemExit", "TimeoutError", "MemoryError", "SIGSEGV",
                      "OutputLimitExceeded", ...; "" when ok or unknown (after os._exit). Like
                      traceback, the program's own word when status is ERROR or MEMORY
    exit_code         the exit status, or minus the number of the signal that ended the program
    wall_s, cpu_s     seconds; CPU time counts the program and the children it waited for
    tier              the isolation it really ran under, see `sandbox.TIERS`
    stdout_bytes, stderr_bytes  true length: all that was written until the program ended or was
                      stopped
    peak_memory_mb    MiB resident at the most, in one process, the warm interpreter's included
    """

    status: Status
    stdout: str = ""
    stderr: str = ""
    traceback: str = ""
    error_class: str = ""
    exit_code: int | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0
    tier: str = "none"
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    peak_memory_mb: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the program ran to its end with exit status 0."""
        return self.status is Status.OK


def shown(kept: bytes | bytearray, length: int) -> str:
    """Output as text; where `length` bytes were written and fewer kept, with a mark at its end."""
    cut = length > len(kept)
    # A character cut in two by the limit is dropped, not shown as an invalid one.
    text = getincrementaldecoder("utf-8")(errors="replace").decode(bytes(kept), final=not cut)
    return f"{text}\n[... {length - len(kept)} of {length} bytes cut ...]\n" if cut else text


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
