"""The tool, what an assistant's turn says, and what a format for saying it has to offer."""

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
    """What one assistant turn says.

    Attributes:
        reasoning: the text before the first call, or the whole text when there is no call.
        call: the calls as they were written, markers included, from the first one's start to the
            last one's end; None without a call.
        code: the program; of several calls all programs, joined by a blank line. None without a
            call or when a call could not be parsed.
        error: why a call could not be parsed, in words meant for the model; None when all could.
        call_start: index in the turn's text at which the first call begins; the text's length
            without a call.
        codes: the program of each call, in order; filled from ``code`` when left out.
        repaired: True when a call had to be repaired to be read (formats that are not strict).
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
        """True when the turn carries a call, well-formed or not."""
        return self.call is not None


class ToolCallFormat(Protocol):
    """How a turn of the assistant carries programs. ``cleaner_env.formats`` has five of them.

    Whatever follows a call in its turn is ignored. ``parse(reasoning + call)``, where ``call`` is
    one that it read in another turn, finds ``call`` again at ``len(reasoning)``: the splice of a
    rollback relies on that.

    Attributes:
        name: what ``--tool-format`` and ``make_format`` call it.
        stop_tokens: special tokens that may end a turn after a call, besides the template's own end
            of turn. They are no part of the turn's text.
        max_calls: most calls that a turn may have.
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
        """The text that calls the tool with each program; ValueError where it cannot be written."""
        ...

    def parse(self, text: str) -> ParsedTurn:
        """Read a turn. Never raises: a malformed call comes back with ``error`` set."""
        ...


def system_prompt(format: ToolCallFormat, stateful: bool = False) -> str:
    """What an agent has to know before it meets the environment, in the format's own terms."""
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
