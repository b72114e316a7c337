"""TextFormat: what all formats share, from the calls found in a text to the parsed turn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from cleaner_env.formats.protocol import ParsedTurn
from cleaner_env.formats.thoughts import thought_end


@dataclass(frozen=True, slots=True)
class Call:
    """One call in a turn's text, ``text[start:end]``: its program, or what is wrong with it."""

    start: int
    end: int
    code: str | None = None
    error: str | None = None
    repaired: bool = False


class TextFormat(ABC):
    """A format defined by how one call is found and read.

    Args:
        max_calls: the most calls that a turn may have. A turn with more is refused as a whole.
        strict: False repairs calls that break the format's rules in ways that models often do. The
            model then does not learn of its mistake, but ``ParsedTurn.repaired`` reports it.
        opened_thinking: True if a prompt may end inside a ``<think>`` block, as with the templates
            of some reasoning models: the turn is then reasoning up to ``</think>``.
    """

    name: ClassVar[str]
    stop_tokens: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, *, max_calls: int = 1, strict: bool = True, opened_thinking: bool = False
    ) -> None:
        if max_calls < 1:
            raise ValueError(f"max_calls must be at least 1, not {max_calls}")
        self.max_calls = max_calls
        self.strict = strict
        self.opened_thinking = opened_thinking

    def __repr__(self) -> str:
        return f"{type(self).__name__}(max_calls={self.max_calls}, strict={self.strict})"

    @property
    @abstractmethod
    def instructions(self) -> str:
        """Part of a system prompt: how to call the tool."""

    @abstractmethod
    def render(self, code: str, *more: str) -> str:
        """The text that calls the tool with each program; ValueError if it cannot be written."""

    @abstractmethod
    def render_foreign(self, name: str, arguments: str) -> str:
        """A call without a program, as a server has read it, in a form that is malformed here."""

    @abstractmethod
    def _calls(self, text: str, start: int) -> Iterator[Call]:
        """The calls from an index on, in order, malformed ones included."""

    def parse(self, text: str) -> ParsedTurn:
        """Read a turn. Never raises: a malformed call comes back with ``error`` set.

        Text inside a leading ``<think>`` block is reasoning, whatever it contains, and so is all
        text before a ``</think>`` that no program contains, because the prompt may have opened the
        block. In a block that is never closed only calls that end the turn count. If one of several
        calls is malformed, none has a program: either all are run or none.
        """
        end = self._thought_end(text)
        found = self._calls(text, end or 0)
        if end is None:
            found = iter(_last_calls(text, list(found)))
        calls = list(islice(found, self.max_calls + 1))
        if not calls:
            return ParsedTurn(text, None, None, None, len(text))
        start = calls[0].start
        if len(calls) > self.max_calls:
            return ParsedTurn(text[:start], text[start:], None, self._too_many(), start)
        call = text[start : calls[-1].end]
        error = _first_error(calls)
        if error is not None:
            return ParsedTurn(text[:start], call, None, error, start)
        codes = tuple(one.code for one in calls if one.code is not None)
        repaired = any(one.repaired for one in calls)
        return ParsedTurn(text[:start], call, "\n\n".join(codes), None, start, codes, repaired)

    def _thought_end(self, text: str) -> int | None:
        """Where the leading think block ends; 0 without one, None if it is never closed."""
        calls = ((call.start, call.end) for call in self._calls(text, 0) if call.error is None)
        return thought_end(text, self.opened_thinking, calls)

    def _too_many(self) -> str:
        if self.max_calls == 1:
            return "more than one call in a turn; send one call and wait for its result"
        return (
            f"more than {self.max_calls} calls in a turn; send at most {self.max_calls} and wait "
            "for their results"
        )


def _last_calls(text: str, calls: list[Call]) -> list[Call]:
    """The calls with which a text ends. Calls that are followed by words are not among them."""
    end = len(text)
    kept: list[Call] = []
    for call in reversed(calls):
        if text[call.end : end].strip("; \t\r\n"):
            break
        kept.insert(0, call)
        end = call.start
    return kept


def _first_error(calls: list[Call]) -> str | None:
    """What is wrong with the first malformed call; None if all are well-formed."""
    for number, call in enumerate(calls, 1):
        if call.error is not None and len(calls) > 1:
            return f"call {number} of {len(calls)}: {call.error}; no call of this turn was run"
        if call.error is not None:
            return call.error
    return None


def skip_space(text: str, place: int) -> int:
    """The index of the next character that is not white space, or the text's length."""
    while place < len(text) and text[place].isspace():
        place += 1
    return place
