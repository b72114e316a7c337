"""The format of Hermes, Qwen2.5 and Qwen3 models: JSON between ``<tool_call>`` tags."""

from __future__ import annotations

import json
from collections.abc import Iterator

from cleaner_env.formats.base import Call, TextFormat
from cleaner_env.formats.json_call import dump, read_call
from cleaner_env.formats.protocol import TOOL_NAME, TOOL_SCHEMA


class HermesFormat(TextFormat):
    """``<tool_call>{"name": ..., "arguments": {"code": ...}}</tool_call>``; see ``TextFormat``."""

    name = "hermes"
    holds_json = True
    start = "<tool_call>"
    end = "</tool_call>"

    @property
    def instructions(self) -> str:
        """Part of a system prompt: how to call the tool."""
        return (
            f"# Tools\n<tools>\n{json.dumps(TOOL_SCHEMA)}\n</tools>\n\n"
            f"To run a program, end your turn with a JSON object between {self.start} tags:\n"
            f"{self.render('print(6 * 7)')}"
        )

    def render(self, code: str, *more: str) -> str:
        """The text that calls the tool with each program. Any program can be written."""
        return "\n".join(
            f"{self.start}\n{dump(payload, self.end)}\n{self.end}"
            for payload in ({"name": TOOL_NAME, "arguments": {"code": c}} for c in (code, *more))
        )

    def _calls(self, text: str, start: int) -> Iterator[Call]:
        while (start := text.find(self.start, start)) >= 0:
            body_start = start + len(self.start)
            body_end = text.find(self.end, body_start)
            if body_end < 0:
                error = f"the call is not closed; end it with {self.end}"
                yield Call(start, len(text), error=error)
                return
            read = read_call(text[body_start:body_end], ("arguments",), self.strict)
            end = body_end + len(self.end)
            yield Call(start, end, *read)
            start = end
