"""The format of Hermes, Qwen2.5 and Qwen3 models: JSON between ``<tool_call>`` tags."""

from __future__ import annotations

import json
from collections.abc import Iterator

from cleaner_env.formats.base import Call, TextFormat
from cleaner_env.formats.json_call import dump, object_end, read_call
from cleaner_env.formats.protocol import TOOL_NAME, TOOL_SCHEMA


class HermesFormat(TextFormat):
    """``<tool_call>{"name": ..., "arguments": {"code": ...}}</tool_call>``; see ``TextFormat``."""

    name = "hermes"
    start = "<tool_call>"
    end = "</tool_call>"

    @property
    def instructions(self) -> str:
        return (
            f"# Tools\n<tools>\n{json.dumps(TOOL_SCHEMA)}\n</tools>\n\n"
            f"To run a program, end your turn with a JSON object between {self.start} tags:\n"
            f"{self.render('print(6 * 7)')}"
        )

    def render(self, code: str, *more: str) -> str:
        return "\n".join(
            f"{self.start}\n{dump(payload, self.end)}\n{self.end}"
            for payload in ({"name": TOOL_NAME, "arguments": {"code": c}} for c in (code, *more))
        )

    def render_foreign(self, name: str, arguments: str) -> str:
        """The call as an object, which need not be JSON."""
        call = f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}'
        return f"{self.start}\n{call}\n{self.end}"

    def _calls(self, text: str, start: int) -> Iterator[Call]:
        while (start := text.find(self.start, start)) >= 0:
            call = self._read(text, start)
            yield call
            start = call.end

    def _read(self, text: str, start: int) -> Call:
        """The call whose opening tag was found. Its end tag is sought after the JSON object, whose
        strings may contain it."""
        first = start + len(self.start)
        after = object_end(text, first)
        last = text.find(self.end, after)
        end = last + len(self.end)
        strict = self.strict
        if not strict:
            following = text.find(self.start, after)
            limit = len(text) if following < 0 else following
            if after > first and not 0 <= last < limit:  # a whole object without an end tag
                code, error, _ = read_call(text[first:limit], ("arguments",), strict)
                return Call(start, limit if error else after, code, error, repaired=not error)
            # With two end tags, one may belong to the program.
            strict = after == first and text.find(self.end, end, limit) >= 0
        if last < 0:
            error = f"the call is not closed; end it with {self.end}"
            return Call(start, len(text), error=error)
        return Call(start, end, *read_call(text[first:last], ("arguments",), strict))
