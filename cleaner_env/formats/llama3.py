"""The format of Llama 3.1, 3.2 and 3.3: a bare JSON object, or a program after ``<|python_tag|>``.

The published templates write ``{"name": ..., "parameters": ...}`` for custom tools, and models put
``<|python_tag|>`` before it or not. For the built-in interpreter, the program itself follows that
tag, up to the end of the turn. Such a turn ends with ``<|eom_id|>``, others with ``<|eot_id|>``;
both are tokens and not part of the text. Several objects follow one another, with or without
semicolons between them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from cleaner_env.formats.base import Call, TextFormat, skip_space
from cleaner_env.formats.json_call import dump, object_end, read_call
from cleaner_env.formats.protocol import TOOL_NAME, TOOL_SCHEMA

_TAG = "<|python_tag|>"
_ENDS = ("<|eom_id|>", "<|eot_id|>")
_ARGUMENTS = ("parameters", "arguments")
_OBJECT = re.compile(r"""\{\s*["'](?:name|type|parameters|arguments)["']\s*:""")
_TAG_OR_OBJECT = re.compile(rf"{re.escape(_TAG)}|{_OBJECT.pattern}")
_HINT = re.compile("|".join((*_ARGUMENTS, TOOL_NAME)))
"""An object that cannot be read is taken for a call only if it contains one of these words."""
_AFTER_BROKEN = re.compile(rf"{re.escape(_TAG)}|(?<=[;\n])\s*{_OBJECT.pattern}|<\|eo[mt]_id\|>")
"""Ends an object that cannot be read. Dictionaries in its program must not end it."""
_CUT = re.compile(rf"""(?:(?!{_TAG_OR_OBJECT.pattern})[^\n])*?"\s*[}}\]]""")
"""Follows an object that seems to end within its program, at a quotation mark not escaped."""


class Llama3Format(TextFormat):
    """``{"name": ..., "parameters": {"code": ...}}``, or a tagged program; see ``TextFormat``."""

    name = "llama3"
    stop_tokens = ("<|eom_id|>",)

    @property
    def instructions(self) -> str:
        return (
            f"You have this function:\n{json.dumps(TOOL_SCHEMA)}\n\n"
            "To run a program, end your turn with a JSON object, its name and its parameters:\n"
            f"{self.render('print(6 * 7)')}"
        )

    def render(self, code: str, *more: str) -> str:
        return "; ".join(
            dump({"name": TOOL_NAME, "parameters": {"code": program}}, _TAG, *_ENDS)
            for program in (code, *more)
        )

    def render_foreign(self, name: str, arguments: str) -> str:
        """The call as an object, which need not be JSON."""
        return f'{{"name": {json.dumps(name)}, "parameters": {arguments}}}'

    def _calls(self, text: str, start: int) -> Iterator[Call]:
        while begin := _TAG_OR_OBJECT.search(text, start):
            first = begin.start() + len(_TAG) if begin[0] == _TAG else begin.start()
            found = _OBJECT.match(text, skip_space(text, first))
            call = found and self._object(text, begin.start(), found.start())
            if call is None and begin[0] == _TAG:
                call = self._tagged(text, begin.start(), first)
            if call is None:
                start = begin.end()
            else:
                start = call.end
                yield call

    @staticmethod
    def _tagged(text: str, start: int, first: int) -> Call:
        """A program written directly, up to the end of the turn or the next tag."""
        ends = [place for mark in (_TAG, *_ENDS) if (place := text.find(mark, first)) >= 0]
        end = min(ends, default=len(text))
        if not text[first:end].strip():
            return Call(start, end, error=f"there is no program after {_TAG}")
        return Call(start, end, text[first:end].strip("\r\n"))

    def _object(self, text: str, start: int, first: int) -> Call | None:
        """The call in a JSON object; None if the object does not look like a call."""
        end = object_end(text, first)
        if end == first:
            following = _TAG_OR_OBJECT.search(text, first + 1)
            if not _HINT.search(text, first, following.start() if following else len(text)):
                return None
            after = _AFTER_BROKEN.search(text, first + 1)
            end = after.start() if after else len(text)
            return Call(start, end, *read_call(text[first:end].strip(), _ARGUMENTS, self.strict))
        payload = json.loads(text[first:end], strict=False)
        names = payload.keys() & {"name", "type"} and payload.keys() & {*_ARGUMENTS}
        if payload.get("name") != TOOL_NAME and not names:
            return None
        if _CUT.match(text, end):
            error = "the quotation marks in the program must be escaped"
            return Call(start, len(text), error=f"the call is not valid JSON: {error}")
        return Call(start, end, *read_call(text[first:end], _ARGUMENTS, self.strict))
