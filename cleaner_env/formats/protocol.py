"""The tool, the parts of an assistant's turn, and the interface of a tool-call format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

TOOL_NAME = "code_interpreter"

TOOL_SCHEMA: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": TOOL_NAME,
        "description": "Run a Python program and return what it prints.",
        "parameters": {
            "type": "object",
            "properties": {
                "code": {"type": "string", "description": "The program. Print the results."}
            },
            "required": ["code"],
        },
    },
}


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """The parts of one assistant turn.

    Attributes:
        reasoning: the text before the first call, or the whole text if there is no call.
        call: the calls as written, including markers, from the start of the first to the end of the
            last; None without a call.
        code: the program; for several calls all programs, joined by blank lines. None without a
            call, or if a call could not be parsed.
        error: why a call could not be parsed, in words meant for the model; None if all could.
        call_start: index in the turn's text at which the first call begins; the text's length
            without a call.
        codes: the program of each call, in order; taken from ``code`` if not given.
        repaired: whether a call had to be repaired to be read (formats that are not strict).
    """

    reasoning: str
    call: str | None
    code: str | None
    error: str | None
    call_start: int
    codes: tuple[str, ...] = ()
    repaired: bool = False

    def __post_init__(self) -> None:
        if not self.codes and self.code is not None:
            object.__setattr__(self, "codes", (self.code,))

    @property
    def has_call(self) -> bool:
        """Whether the turn has a call, well-formed or not."""
        return self.call is not None


class ToolCallFormat(Protocol):
    """How a turn of the assistant carries programs. ``cleaner_env.formats`` has five formats.

    Text after a call is ignored. If ``call`` was read in another turn, ``parse(reasoning + call)``
    must find it again at ``len(reasoning)``; the splice of a rollback relies on that.

    Attributes:
        name: its name for ``--tool-format`` and ``make_format``.
        stop_tokens: special tokens that may end a turn after a call, in addition to the template's
            own end of turn. They are not part of the turn's text.
        max_calls: the most calls that a turn may have.
    """

    @property
    def name(self) -> str: ...

    @property
    def stop_tokens(self) -> tuple[str, ...]: ...

    @property
    def max_calls(self) -> int: ...

    @property
    def instructions(self) -> str:
        """Part of a system prompt: how to call the tool."""
        ...

    def render(self, code: str, *more: str) -> str:
        """The text that calls the tool with each program; ValueError if it cannot be written."""
        ...

    def parse(self, text: str) -> ParsedTurn:
        """Read a turn. Never raises: a malformed call comes back with ``error`` set."""
        ...


def system_prompt(format: ToolCallFormat, stateful: bool = False) -> str:
    """What an agent has to know about the environment, in the terms of the format."""
    state = "Programs share no state."
    if stateful:
        state = "Variables stay from one program to the next; one that fails changes nothing."
    calls = "One call per turn."
    if format.max_calls > 1:
        calls = (
            f"At most {format.max_calls} calls per turn; they run in order, and the first one that "
            "fails ends the turn."
        )
    return (
        "You solve problems with the help of a Python interpreter.\n\n"
        f"{format.instructions}\n"
        f"You will be shown what it printed. {state} {calls}\n"
        "When you know the answer, write it without a call, as \\boxed{answer}."
    )
