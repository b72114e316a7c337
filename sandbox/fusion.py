"""FusionSandbox: a client with the interface of Sandbox for a SandboxFusion service.

The service speaks HTTP: POST /run_code with the program, its input and its limits. It runs programs
in new processes, so it is slower than the local pool, and it bounds what the service bounds:
`Limits.cpu_s` and `Limits.processes` are not part of the protocol.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from .errors import SandboxError, WorkerFault
from .result import Limits, Result, Status, shown, signal_name

ATTEMPTS = 3
RETRY_HTTP = (408, 425, 429, 500, 502, 503, 504)
MAX_ANSWER_BYTES = 64 << 20
TRACEBACK = "Traceback (most recent call last):\n"
ERROR_LINE = re.compile(r"^(?:[\w.]+\.)?(\w+)(?::|$)")
SCRIPT = re.compile(r'File "/[^"\n]*/tmp\w+\.py"|File "/[^"\n]*/main\.py"|File "/tmp/\w+\.py"')


class FusionSandbox:
    """Runs programs on a SandboxFusion service; stateless, thread-safe, a context manager.

    url        where the service listens, such as http://sandbox.example:8080
    limits     the bounds of an execution unless `run` is given others
    workers    programs that `map` has in flight
    answer_s   seconds to wait for an answer, on top of the program's own time
    pause_s    seconds before the second attempt; doubled before each further one

    `faults` counts the attempts that the service failed.
    """

    tier = "fusion"

    def __init__(
        self,
        url: str,
        limits: Limits | None = None,
        workers: int = 8,
        answer_s: float = 30.0,
        pause_s: float = 0.5,
    ):
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url must start with http:// or https://, not {url!r}")
        self.url = url.rstrip("/") + "/run_code"
        self.limits = limits or Limits()
        self.workers = workers
        self.answer_s = answer_s
        self.pause_s = pause_s
        self.faults = 0
        self.closed = False
        self._lock = threading.Lock()

    def run(self, code: str, *, stdin: str = "", limits: Limits | None = None) -> Result:
        """As Sandbox.run. Raises SandboxError when the service failed three times in a row, or
        refused the request."""
        for name, value in (("code", code), ("stdin", stdin)):
            if not isinstance(value, str):
                raise TypeError(f"{name} must be a str, not {type(value).__name__}")
        limits = limits or self.limits
        for attempt in range(1, ATTEMPTS + 1):
            if self.closed:
                raise SandboxError("the sandbox is closed")
            try:
                return read_answer(self._post(code, stdin, limits), limits)
            except WorkerFault as error:
                with self._lock:
                    self.faults += 1
                if attempt == ATTEMPTS:
                    raise SandboxError(
                        f"{self.url} failed {ATTEMPTS} times in a row, last: {error}. "
                        "This says nothing about the program."
                    ) from error
                time.sleep(self.pause_s * 2 ** (attempt - 1))
        raise AssertionError("unreachable")

    async def arun(self, code: str, *, stdin: str = "", limits: Limits | None = None) -> Result:
        """As `run`, without blocking the event loop."""
        return await asyncio.to_thread(self.run, code, stdin=stdin, limits=limits)

    def map(
        self, programs: Iterable[str], *, stdin: str = "", limits: Limits | None = None
    ) -> Iterator[Result]:
        """Run many programs, `workers` at a time; results in their order."""
        with ThreadPoolExecutor(self.workers, "fusion") as threads:
            yield from threads.map(
                lambda code: self.run(code, stdin=stdin, limits=limits), programs
            )

    def close(self) -> None:
        """Refuse further calls."""
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _post(self, code: str, stdin: str, limits: Limits) -> dict[str, Any]:
        question = {
            "code": code,
            "language": "python",
            "stdin": stdin,
            "run_timeout": limits.wall_s,
            "memory_limit_MB": limits.memory_mb,
        }
        request = urllib.request.Request(
            self.url, json.dumps(question).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=limits.wall_s + self.answer_s) as answer:
                found = json.loads(answer.read(MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                text = f"HTTP {error.code}: {error.read(500).decode(errors='replace')}"
            if error.code in RETRY_HTTP:
                raise WorkerFault(text) from error
            raise SandboxError(f"{self.url} refused the request. {text}") from error
        except (OSError, ValueError) as error:  # no connection, a timeout, no JSON
            raise WorkerFault(f"{type(error).__name__}: {error}") from error
        if not isinstance(found, dict):
            raise WorkerFault(f"an answer that is no object: {str(found)[:200]}")
        return found


def read_answer(answer: dict[str, Any], limits: Limits) -> Result:
    """The Result that an answer of /run_code tells of. WorkerFault when the service failed."""
    run = answer.get("run_result")
    if answer.get("status") == "SandboxError" or not isinstance(run, dict):
        raise WorkerFault(f"{answer.get('status')}: {answer.get('message', '')}")
    if run.get("status") not in ("Finished", "TimeLimitExceeded"):
        raise WorkerFault(f"run ended as {run.get('status')}: {run.get('stderr') or ''}")
    stdout = Output.cut(run.get("stdout"), limits.output_bytes)
    stderr, traceback = split_traceback(run.get("stderr") or "")
    errors = Output.cut(stderr, limits.output_bytes)
    exit_code = run.get("return_code")
    status, error_class, traceback = classify(run["status"], exit_code, traceback, limits)
    if stdout.truncated or errors.truncated:
        status, error_class = Status.OUTPUT, "OutputLimitExceeded"
        traceback = f"{error_class}: the program wrote more than {limits.output_bytes} bytes\n"
    return Result(
        status=status,
        stdout=stdout.text,
        stderr=errors.text,
        traceback=traceback,
        error_class=error_class,
        exit_code=exit_code,
        wall_s=float(run.get("execution_time") or 0.0),
        tier=FusionSandbox.tier,
        stdout_bytes=stdout.length,
        stderr_bytes=errors.length,
    )


def classify(
    ended: str, exit_code: int | None, traceback: str, limits: Limits
) -> tuple[Status, str, str]:
    """Status, error class and traceback, as a Sandbox would have them."""
    if ended == "TimeLimitExceeded":
        text = f"TimeoutError: the program ran longer than {limits.wall_s:g} s\n"
        return Status.TIMEOUT, "TimeoutError", text
    if exit_code == 0:
        return Status.OK, "", ""
    if exit_code is None:
        raise WorkerFault("a program that finished without an exit status")
    if exit_code < 0:
        name = signal_name(-exit_code)
        return Status.SIGNAL, name, f"{name}: the program was killed by this signal\n"
    match = ERROR_LINE.match(traceback.rstrip().rpartition("\n")[2])
    error_class = match[1] if match else "SystemExit"
    return (Status.MEMORY if error_class == "MemoryError" else Status.ERROR), error_class, traceback


def split_traceback(stderr: str) -> tuple[str, str]:
    """stderr without its traceback, and the traceback with the script named main.py."""
    before, found, after = stderr.partition(TRACEBACK)
    if found:
        return before, SCRIPT.sub('File "main.py"', found + after)
    at = stderr.find('  File "')  # a syntax error has no first line
    if at != -1 and "SyntaxError" in stderr:
        return stderr[:at], SCRIPT.sub('File "main.py"', stderr[at:])
    return stderr, ""


@dataclass(frozen=True, slots=True)
class Output:
    """Text cut to a number of bytes, and how many there were."""

    text: str
    length: int
    truncated: bool

    @classmethod
    def cut(cls, text: str | None, limit: int) -> Output:
        data = (text or "").encode("utf-8", "replace")
        return cls(shown(data[:limit], len(data)), len(data), len(data) > limit)
