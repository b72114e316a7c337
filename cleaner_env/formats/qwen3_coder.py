"""The format of Qwen3-Coder, Qwen3.5 and later: the program, unescaped, between XML-like tags.

Without escapes, a program that contains ``</parameter>`` cannot be written. Servers strip one line
break from each end of a value, and so does this parser.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from cleaner_env.formats.base import Call, TextFormat, skip_space
from cleaner_env.formats.protocol import TOOL_NAME, TOOL_SCHEMA

_OPEN = re.compile(r"(<tool_call>\s*)?<function=|<tool_call>")
_NAME = re.compile(r"([^<>\n]*)>\s*")
_PARAMETER = re.compile(r"<parameter=([^<>\n]*)>")
_END_OF_VALUE = "</parameter>"
_END = re.compile(rf"{_END_OF_VALUE}(?=\s*<(?:parameter=|/function>))")
"""Ends a value. The tag alone may be part of a program."""
_LOOSE_END = re.compile(
    rf"(?<=\n)(?:{_END_OF_VALUE}(?=\s*(?:</?tool_call>|\Z))|(?=</function>\s*</tool_call>))"
)
"""Ends a value if tags are missing: its own end tag or the two next ones, on a new line."""
_TAG = re.compile(r"</(?:parameter|function|tool_call)>")


class Qwen3CoderFormat(TextFormat):
    """``<tool_call><function=code_interpreter><parameter=code>...``; see ``TextFormat``.

    If not strict, it also reads calls that lack ``<tool_call>`` or an end tag.
    """

    name = "qwen3-coder"

    @property
    def instructions(self) -> str:
        return (
            f"# Tools\n<tools>\n{json.dumps(TOOL_SCHEMA)}\n</tools>\n\n"
            "To run a program, end your turn with a call like this one, all tags included:\n"
            f"{self.render('print(6 * 7)')}"
        )

    def render(self, code: str, *more: str) -> str:
        """ValueError for a program with ``</parameter>`` in it."""
        for program in (code, *more):
            if _END_OF_VALUE in program:
                raise ValueError(
                    f"the qwen3-coder format cannot carry a program with {_END_OF_VALUE}; split "
                    "that text in the program, or use another format"
                )
        return "\n".join(
            f"<tool_call>\n<function={TOOL_NAME}>\n<parameter=code>\n{program}\n</parameter>\n"
            "</function>\n</tool_call>"
            for program in (code, *more)
        )

    def render_foreign(self, name: str, arguments: str) -> str:
        """The opening tag and the call as an object, without ``<function=``."""
        call = f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}'
        return f"<tool_call>\n{call}\n</tool_call>"

    def _calls(self, text: str, start: int) -> Iterator[Call]:
        while opened := _OPEN.search(text, start):
            call = self._read(text, opened)
            yield call
            start = call.end

    def _read(self, text: str, opened: re.Match[str]) -> Call:
        """The call whose opening tags were found."""
        start, place = opened.span()
        if opened[0] == "<tool_call>":
            return self._broken(text, start, place, "<tool_call> must be followed by <function=")
        if opened[1] is None and self.strict:
            return self._broken(text, start, place, "the call must begin with <tool_call>")
        named = _NAME.match(text, place)
        if named is None:
            return self._broken(text, start, place, "<function= must be followed by a name and >")
        read = _values(text, named.end())
        complete = read is not None
        if read is None and not self.strict:
            read = _values(text, named.end(), loose=True)
        if read is None:
            error = "every tag must be closed: </parameter>, </function>, </tool_call>"
            return self._broken(text, start, named.end(), f"the call is not closed; {error}")
        values, place = read
        if named[1].strip() != TOOL_NAME:
            error = f"there is no tool named {named[1].strip()!r}; the only tool is {TOOL_NAME!r}"
            return Call(start, place, error=error)
        if "code" not in values:
            return Call(start, place, error="the program must stand in <parameter=code>")
        return Call(start, place, values["code"], repaired=not complete or opened[1] is None)

    @staticmethod
    def _broken(text: str, start: int, place: int, error: str) -> Call:
        """A malformed call, which extends to its end tag, or to the next call if it has none."""
        after = _OPEN.search(text, place)
        limit = len(text) if after is None else after.start()
        closed = text.find("</tool_call>", place, limit)
        return Call(start, limit if closed < 0 else closed + len("</tool_call>"), error=error)


def _values(text: str, place: int, loose: bool = False) -> tuple[dict[str, str], int] | None:
    """Parameters from an index on, and the index after the call; None if a tag is missing.

    ``loose`` only asks for enough tags to tell where each value ends. If a name occurs twice, its
    first value counts.
    """
    values: dict[str, str] = {}
    following = _OPEN.search(text, place) if loose else None
    limit = len(text) if following is None else following.start()
    while parameter := _PARAMETER.match(text, place, limit):
        first = parameter.end()
        ended = _END.search(text, first, limit) or (
            _LOOSE_END.search(text, first, limit) if loose else None
        )
        if ended is None:
            return None
        values.setdefault(parameter[1].strip(), _without_line_breaks(text[first : ended.start()]))
        place = skip_space(text, ended.end())
    for tag in ("</function>", "</tool_call>"):
        if text.startswith(tag, after := skip_space(text, place)):
            place = after + len(tag)
        elif not loose:
            return None
    return None if loose and _TAG.search(text, place, limit) else (values, place)


def _without_line_breaks(value: str) -> str:
    """The value without the line break that follows its tag and the one before its end tag."""
    if value.startswith("\r\n"):
        return value[2:].removesuffix("\n").removesuffix("\r")
    return value.removeprefix("\n").removesuffix("\n")
