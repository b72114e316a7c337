"""Chat messages: OpenAI's chat completions, and what resembles them, read as turns and written.

For agents behind a server. A turn is text in a tool-call format; a server may cut the model's
thoughts and calls out of the text, and want calls and results in messages of its own kind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

from cleaner_env.chat.codec import ToolRole, tool_message
from cleaner_env.completion import Completion
from cleaner_env.formats import HermesFormat, TextFormat
from cleaner_env.formats.protocol import TOOL_NAME
from cleaner_env.formats.thoughts import THOUGHT_END

_THOUGHTS = ("reasoning_content", "reasoning")
"""Fields in which servers put a model's thought, which they cut out of the text."""
OUTPUT_BELOW = "(its output stands in the last result of this turn)"
_CHARACTERS = 4
"""Characters taken for a token where the server does not count tokens."""


class ChatError(Exception):
    """An answer without a turn. ``status`` is the HTTP status that would fit, 500 if unknown."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a server read and sampled, as it counted them, and how many of the sampled ones
    are an estimate because it did not."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*map(sum, zip(astuple(self), astuple(other), strict=True)))


class Answer(NamedTuple):
    """The assistant's turn, what it cost, and the message in which the server sent it."""

    turn: Completion
    usage: Usage
    message: Mapping[str, Any]


def read_answer(body: str | bytes, format: TextFormat) -> Answer:
    """The turn in a chat completion, ``truncated`` if a limit ended it.

    Raises:
        ChatError: there is none. Servers may report errors in place of it, with the status 200.
    """
    try:
        data = json.loads(body)
        choice = (data.get("choices") or [{}])[0]
        error = data.get("error") or choice.get("error")
        if not error:
            text = turn_text(choice["message"], format)
            turn = Completion(text, truncated=choice.get("finish_reason") == "length")
            return Answer(turn, _usage(data.get("usage"), text), choice["message"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        reason = f"{type(problem).__name__}: {problem}"
        raise ChatError(500, f"not a chat completion ({reason}): {body[:200]!r}") from problem
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    raise ChatError(status, f"an error in place of a turn: {error_text(error)}")


def _usage(counted: Any, text: str) -> Usage:
    """What the server counted; an estimate of the sampled tokens if it counted none."""
    counted = counted if isinstance(counted, dict) else {}
    read, sampled = (int(counted.get(f"{k}_tokens") or 0) for k in ("prompt", "completion"))
    estimate = 0 if sampled else -(-len(text) // _CHARACTERS)
    return Usage(read, sampled or estimate, estimate)


def error_text(error: Any) -> str:
    """The words in the ``error`` of an answer."""
    return str(error.get("message", error) if isinstance(error, dict) else error)


class ServerFormat(HermesFormat):
    """The format for servers that are sent a description of the tool and parse calls themselves.

    Turns hold calls in Hermes's format; the model never sees it, so the prompt does not explain it.
    """

    name = "server"

    @property
    def instructions(self) -> str:
        return f"To run a program, call the tool {TOOL_NAME}."


def turn_text(message: Mapping[str, Any], format: TextFormat) -> str:
    """An assistant's message as the text of a turn: thought, content and calls, in the format.

    A call without a program is written so that the format finds it malformed.

    Raises:
        TypeError, KeyError, AttributeError, ValueError: this is no assistant's message, or the
            format cannot write its call.
    """
    text = content = _plain(message.get("content")) or _plain(message.get("refusal"))
    thoughts = [t for name in _THOUGHTS if isinstance(t := message.get(name), str) and t.strip()]
    if thoughts and not THOUGHT_END.search(content):
        thought = THOUGHT_END.sub("", thoughts[0].strip())
        text = f"<think>\n{thought}\n</think>\n\n{content}"
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    if not calls and message.get("function_call"):  # OpenAI's name before there were several
        calls = [message["function_call"]]
    if calls:
        text = text.rstrip("\n") + "\n" if text else ""
        text += _calls_text(calls, format)
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair could not be sent back


def _plain(content: Any) -> str:
    """The text of a message's content, which may be missing or come in parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise TypeError(f"the content is {content!r}")
    parts = [part if isinstance(part, str) else part.get("text") or "" for part in content]
    return "".join(parts)


def _calls_text(calls: Sequence[Mapping[str, Any]], format: TextFormat) -> str:
    """The text of a turn's calls. A malformed one stands for all, because then none is run."""
    codes: list[str] = []
    for call in calls:
        name, arguments = call["name"], call.get("arguments")
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        try:
            read = json.loads(written, strict=False)
        except (ValueError, RecursionError):
            read = None
        code = read.get("code") if isinstance(read, dict) else None
        if name != TOOL_NAME or not isinstance(code, str):
            return format.render_foreign(name, written)
        codes.append(code)
    return format.render(*codes)


def sent_messages(
    messages: Sequence[Mapping[str, str]], format: TextFormat, tool_role: ToolRole = "auto"
) -> list[dict[str, Any]]:
    """A conversation of text as a server is to be sent it.

    For ``ServerFormat``, calls stand beside the text, and results refer to them. A malformed call
    stays text, and what is wrong with it is said by the user, because a result has to refer to a
    call. For other formats, a program's output is the user's unless ``tool_role`` is ``"tool"``.
    """
    if not isinstance(format, ServerFormat):
        role = "tool" if tool_role == "tool" else "user"
        return [
            tool_message(m["content"], role) if m["role"] == "tool" else {**m} for m in messages
        ]
    sent: list[dict[str, Any]] = []
    ids: list[str] = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            turn = format.parse(message["content"])
            # Nine letters and digits, as Mistral's servers demand.
            ids = [f"call{number:03}{place:02}" for place in range(len(turn.codes))]
            text = turn.reasoning.rstrip() if ids else message["content"]
            sent.append({"role": "assistant", "content": text})
            if ids:
                calls = zip(ids, turn.codes, strict=True)
                sent[-1]["tool_calls"] = [_call(call_id, code) for call_id, code in calls]
        elif message["role"] == "tool" and ids:
            shown = [OUTPUT_BELOW] * (len(ids) - 1) + [message["content"]]
            results = zip(ids, shown, strict=True)
            sent += [{"role": "tool", "tool_call_id": i, "content": text} for i, text in results]
        elif message["role"] == "tool":
            sent.append(tool_message(message["content"], "user"))
        else:
            sent.append(dict(message))
    return sent


def _call(call_id: str, code: str) -> dict[str, Any]:
    function = {"name": TOOL_NAME, "arguments": json.dumps({"code": code}, ensure_ascii=False)}
    return {"id": call_id, "type": "function", "function": function}
