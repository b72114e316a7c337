"""Observations: the text that the model is shown after its program ran."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox import Result

NO_OUTPUT = "(no output: print the result to see it)"
STDERR = "[stderr]"


def format_observation(result: Result, max_chars: int = 4096) -> str:
    """The program's output, then its traceback or the reason why it was stopped.

    What a program that ended well wrote to stderr (a log, a warning, what a thread died of) follows
    under a line that says so, in at most half of the room. Text longer than ``max_chars`` is cut in
    the middle, with a mark that says how much is missing.
    """
    output = result.stdout.rstrip("\n")
    if result.ok:
        errors = result.stderr.rstrip("\n")
        if not errors:
            return clip(output, max_chars) or NO_OUTPUT
        room = max_chars - len(STDERR) - 2
        errors = clip(errors, max(room // 2, room - len(output)))
        output = clip(output, max(room // 2, room - len(errors)))
        return f"{output}\n{STDERR}\n{errors}" if output else f"{STDERR}\n{errors}"
    reason = (result.traceback or result.stderr).rstrip("\n")
    if not reason:
        reason = f"{result.error_class or 'Error'}: the program failed without a message"
    return clip(f"{output}\n{reason}" if output else reason, max_chars)


def format_observations(results: Sequence[Result], calls: int, max_chars: int = 4096) -> str:
    """The observation of each of several programs, under a line that says which call it was.

    The turn has ``calls`` programs, which share ``max_chars`` evenly; none runs after a failed one.
    """
    if calls == 1:
        return format_observation(results[0], max_chars)
    share = max(1, max_chars // calls)
    parts = [
        f"[call {number} of {calls}]\n{format_observation(result, share)}"
        for number, result in enumerate(results, 1)
    ]
    parts += [
        f"[call {number} of {calls}]\nnot run, because call {len(results)} failed"
        for number in range(len(results) + 1, calls + 1)
    ]
    return "\n".join(parts)


def format_call_error(error: str) -> str:
    """What the model is shown instead of a result if its call could not be parsed."""
    return f"ToolCallError: {error}"


def clip(text: str, max_chars: int) -> str:
    """Cut text to about ``max_chars``: its beginning and end, with a visible mark between them."""
    if len(text) <= max_chars:
        return text
    head = max_chars // 2
    tail = max_chars - head
    return f"{text[:head]}\n[... {len(text) - max_chars} characters left out ...]\n{text[-tail:]}"
