"""Observations: the text that the model is shown after its program ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox import Result

NO_OUTPUT = "(no output: print the result to see it)"

_ENDINGS = {
    "timeout": "TimeoutError: the program ran too long and was stopped",
    "memory": "MemoryError: the program used too much memory",
    "output": "OutputError: the program printed too much and was stopped",
    "signal": "RuntimeError: the interpreter was killed by a signal",
}


def format_observation(result: Result, max_chars: int = 4096) -> str:
    """What the program printed, then its traceback or the reason why it was stopped.

    Args:
        result: of a program that ran. A fault of the sandbox is no observation; it is raised.
        max_chars: longer text is cut in the middle, with a mark that says how much is missing.
    """
    parts = [result.stdout.rstrip("\n")]
    if result.ok:
        return clip(parts[0], max_chars) or NO_OUTPUT
    if result.traceback:
        parts.append(result.traceback.rstrip("\n"))
    elif result.stderr:
        parts.append(result.stderr.rstrip("\n"))
    ending = _ENDINGS.get(result.status.value)
    if ending is not None and not (result.status.value == "memory" and result.traceback):
        parts.append(ending)
    elif not any(parts):
        parts.append(f"{result.error_class or 'Error'}: the program failed without a message")
    return clip("\n".join(part for part in parts if part), max_chars)


def format_call_error(error: str) -> str:
    """What the model is shown in place of a result when its call could not be parsed."""
    return f"ToolCallError: {error}"


def clip(text: str, max_chars: int) -> str:
    """Text of at most about ``max_chars``: beginning and end, with a visible mark between."""
    if len(text) <= max_chars:
        return text
    head = max_chars // 2
    tail = max_chars - head
    return f"{text[:head]}\n[... {len(text) - max_chars} characters left out ...]\n{text[-tail:]}"
