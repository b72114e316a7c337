"""Tool calls: how a turn of the assistant carries a program, and how that is read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

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
        reasoning: the text before the call, or the whole text when there is no call.
        call: the call block as it was written, markers included; None without a call.
        code: the program; None without a call or when the call could not be parsed.
        error: why the call could not be parsed, in words meant for the model; None when it could.
        call_start: index in the turn's text at which the call block begins; the text's length
            without a call.
    """

    reasoning: str
    call: str | None
    code: str | None
    error: str | None
    call_start: int

    @property
    def has_call(self) -> bool:
        """True when the turn carries a call, well-formed or not."""
        return self.call is not None


class HermesFormat:
    """The format of Hermes and Qwen models: JSON between ``<tool_call>`` and ``</tool_call>``."""

    start = "<tool_call>"
    end = "</tool_call>"

    def render(self, code: str) -> str:
        """The call block that runs ``code``."""
        payload = json.dumps({"name": TOOL_NAME, "arguments": {"code": code}}, ensure_ascii=False)
        return f"{self.start}\n{payload}\n{self.end}"

    def parse(self, text: str) -> ParsedTurn:
        """Read a turn. Never raises: a malformed call comes back with ``error`` set.

        Text inside a leading ``<think>`` block is reasoning, whatever it contains.
        """
        thought_end = text.find("</think>") if text.lstrip().startswith("<think>") else -1
        call_start = text.find(self.start, thought_end + 1)
        if call_start < 0:
            return ParsedTurn(text, None, None, None, len(text))
        reasoning = text[:call_start]
        body_start = call_start + len(self.start)
        body_end = text.find(self.end, body_start)
        if body_end < 0:
            error = f"the call is not closed; end it with {self.end}"
            return ParsedTurn(reasoning, text[call_start:], None, error, call_start)
        call_end = body_end + len(self.end)
        if text.find(self.start, call_end) >= 0:
            error = "more than one call in a turn; send one call and wait for its result"
            return ParsedTurn(reasoning, text[call_start:], None, error, call_start)
        code, error_or_none = _read_payload(text[body_start:body_end])
        return ParsedTurn(reasoning, text[call_start:call_end], code, error_or_none, call_start)


def _read_payload(body: str) -> tuple[str | None, str | None]:
    """The program in a call's JSON, or None and what is wrong with it."""
    try:
        payload = json.loads(body, strict=False)
    except (ValueError, RecursionError) as error:
        return None, f"the call is not valid JSON: {error}"
    if not isinstance(payload, dict):
        return None, 'the call must be an object with "name" and "arguments"'
    name = payload.get("name")
    if name != TOOL_NAME:
        return None, f"there is no tool named {name!r}; the only tool is {TOOL_NAME!r}"
    arguments = payload.get("arguments")
    code = arguments.get("code") if isinstance(arguments, dict) else None
    if not isinstance(code, str):
        return None, '"arguments" must be an object with the program as a string in "code"'
    return code, None


SYSTEM_PROMPT = f"""\
You solve problems with the help of a Python interpreter.

# Tools
<tools>
{json.dumps(TOOL_SCHEMA)}
</tools>

To run a program, end your turn with a JSON object between {HermesFormat.start} tags:
{HermesFormat().render("print(6 * 7)")}
You will be shown what it printed. Programs share no state. One call per turn.
When you know the answer, write it without a call, as \\boxed{{answer}}."""
"""What an agent has to know before it meets the environment. Sent as the first message unless
the environment is made with another ``system_prompt`` (None sends none)."""
