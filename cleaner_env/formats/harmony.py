"""The format of gpt-oss models (harmony): messages on channels; one with a recipient is a call.

A turn continues the ``<|start|>assistant`` that ends the prompt, and may hold several messages::

    <|channel|>analysis<|message|>I have to count.<|end|><|start|>assistant<|channel|>commentary
     to=functions.code_interpreter <|constrain|>json<|message|>{"code": "print(6 * 7)"}<|call|>

The recipient comes after the channel or before it. ``<|call|>`` is a token that ends the turn; in a
sampled turn it is not part of the text. Messages without a recipient, such as those on the analysis
channel, are reasoning. The built-in ``python`` tool is sent the program itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cleaner_env.formats.base import Call, TextFormat
from cleaner_env.formats.json_call import Read, dump, object_end, read_arguments
from cleaner_env.formats.protocol import TOOL_NAME, TOOL_SCHEMA

_START, _CHANNEL, _BODY, _CALL = "<|start|>", "<|channel|>", "<|message|>", "<|call|>"
_END = re.compile(r"<\|(?:end|call|return|start)\|>")
_RECIPIENT = re.compile(r"\s*\bto=([^\s<]+)")
_TYPE = re.compile(r"(?:<\|constrain\|>\s*|\s)(json|code|python|text)\s*$")
_NOBODY = ("assistant", "user", "all")
_PYTHON = "python"


class HarmonyFormat(TextFormat):
    """``<|channel|>commentary to=functions.code_interpreter ...``; see ``TextFormat``."""

    name = "harmony"
    stop_tokens = (_CALL,)

    @property
    def instructions(self) -> str:
        # Without special tokens, which a prompt's text must not contain.
        function = TOOL_SCHEMA["function"]
        code = function["parameters"]["properties"]["code"]
        return (
            "# Tools\n\n## functions\n\nnamespace functions {\n\n"
            f"// {function['description']}\n"
            f"type {TOOL_NAME} = (_: {{\n// {code['description']}\ncode: string,\n}}) => any;\n\n"
            "} // namespace functions\n\n"
            f"To run a program, call functions.{TOOL_NAME} on the commentary channel."
        )

    def render(self, code: str, *more: str) -> str:
        """What continues ``<|start|>assistant``, without the final ``<|call|>``."""
        header = f"<|channel|>commentary to=functions.{TOOL_NAME} <|constrain|>json{_BODY}"
        return f"{_CALL}{_START}assistant".join(
            header + dump({"code": program}, "<|") for program in (code, *more)
        )

    def render_foreign(self, name: str, arguments: str) -> str:
        """A message to that recipient, whose content need not be JSON."""
        return f"<|channel|>commentary to=functions.{name} <|constrain|>json{_BODY}{arguments}"

    def _thought_end(self, text: str) -> int | None:
        """0, because thoughts are separate messages here."""
        return 0

    def _calls(self, text: str, start: int) -> Iterator[Call]:
        for message in _messages(text):
            found = _recipient(message.header)
            if found is None or (message.content is None and _CHANNEL not in message.header):
                continue
            recipient, offset = found
            begin = message.start + offset
            if message.content is None:
                error = f"the call has no {_BODY} before its arguments"
                yield Call(begin, message.end, error=error)
                continue
            typed = _TYPE.search(message.header)
            read = self._read(recipient, typed and typed[1], message.content)
            yield Call(begin, message.end, *read)

    def _read(self, recipient: str, content_type: str | None, content: str) -> Read:
        """The program in a message's content; without a type, the content of functions is JSON."""
        name = recipient.removeprefix("functions.")
        if name not in (TOOL_NAME, _PYTHON):
            known = f"functions.{TOOL_NAME}"
            return None, f"there is no tool named {recipient!r}; the only tool is {known!r}", False
        if (content_type or ("code" if name == _PYTHON else "json")) == "json":
            return read_arguments(content, self.strict)
        return content, None, False


@dataclass(frozen=True, slots=True)
class _Message:
    """A message of the assistant, from after ``<|start|>assistant`` to after its ``<|call|>``.

    The header extends to ``<|message|>``; without that there is no content.
    """

    start: int
    header: str
    content: str | None
    end: int


def _recipient(header: str) -> tuple[str, int] | None:
    """The recipient of a message, and where in its header the recipient or the channel begins; None
    without one. The recipient comes after the channel, or directly after the role."""
    channel = header.rfind(_CHANNEL)
    found = _RECIPIENT.search(header, channel) if channel >= 0 else None
    if found is None:
        channel = 0
        found = _RECIPIENT.match(header)
    return None if found is None or found[1] in _NOBODY else (found[1], channel)


def _messages(text: str) -> Iterator[_Message]:
    """The messages of a turn, in order. Text before a message belongs to its header."""
    place = 0
    while place < len(text):
        body = text.find(_BODY, place)
        header_end = len(text) if body < 0 else body
        author = text.rfind(_START, place, header_end)
        if author >= 0:
            place = author + len(_START)
            place += len("assistant") if text.startswith("assistant", place) else 0
        header = text[place:header_end]
        if body < 0:
            yield _Message(place, header, None, len(text))
            return
        first = body + len(_BODY)
        # A JSON string may contain the tokens as text.
        ended = _END.search(text, object_end(text, first))
        last = len(text) if ended is None else ended.start()
        called = ended is not None and ended[0] == _CALL
        yield _Message(place, header, text[first:last], last + len(_CALL) * called)
        place = last if ended is None or ended[0] == _START else ended.end()
