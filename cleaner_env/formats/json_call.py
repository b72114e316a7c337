"""JSON calls: the program in an object with a name and arguments, as in three of the formats.

Any program can be written, because JSON can write every character as an escape. What breaks JSON is
repaired on request, if the whole program is there: from the quotation mark that opens it to the one
that is followed by nothing but brackets. A program that may have been cut is never returned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from cleaner_env.formats.base import skip_space
from cleaner_env.formats.protocol import TOOL_NAME

_DECODER = json.JSONDecoder(strict=False)
_CLOSING = " \t\r\n,;}]"
_HEAD = re.compile(
    r"""\s*\{\s*(?:["']?type["']?\s*:\s*["']function["']\s*,\s*)?
    (?:["']?name["']?\s*:\s*["'](?P<name>\w+)["']\s*,\s*
    ["']?(?P<key>arguments|parameters)["']?\s*:\s*\{\s*)?
    ["']?code["']?\s*:\s*(?P<quote>["'])""",
    re.X,
)
"""A call up to its program, with either quotation mark, and without some."""
_ESCAPE = re.compile(r"(?:\\u[0-9a-fA-F]{4})+|\\.", re.S)

Read = tuple[str | None, str | None, bool]
"""The program or None, what is wrong or None, and whether a repair was needed."""


def dump(value: Any, *markers: str) -> str:
    r"""JSON without any of the markers: their first character is escaped as ``\u....``."""
    text = json.dumps(value, ensure_ascii=False)
    for marker in markers:
        text = text.replace(marker, f"\\u{ord(marker[0]):04x}{marker[1:]}")
    return text


def object_end(text: str, start: int) -> int:
    """The index after the JSON object that follows an index; the index itself if none does."""
    first = skip_space(text, start)
    try:
        return _DECODER.raw_decode(text, first)[1] if text.startswith("{", first) else start
    except (ValueError, RecursionError):
        return start


def read_call(body: str, argument_keys: Sequence[str], strict: bool) -> Read:
    """Read the program in the JSON object of a call.

    ``argument_keys`` are the allowed names of the arguments; error messages use the first.
    """
    payload, problem, repaired = _payload(body, strict)
    if problem is None and not isinstance(payload, dict):
        problem = f'the call must be an object with "name" and "{argument_keys[0]}"'
    elif problem is None and (name := payload.get("name")) != TOOL_NAME:
        problem = f"there is no tool named {name!r}; the only tool is {TOOL_NAME!r}"
    if problem is not None:
        return None, problem, False
    arguments = next((payload[key] for key in argument_keys if key in payload), None)
    if isinstance(arguments, str) and not strict:
        arguments, _, repaired = *_payload(arguments, strict)[:2], True
    return *_code_argument(arguments, argument_keys[0]), repaired


def read_arguments(body: str, strict: bool) -> Read:
    """Read the program in the JSON object of a call's arguments, without the name."""
    payload, problem, repaired = _payload(body, strict)
    if problem is not None:
        return None, problem, False
    return *_code_argument(payload, "arguments"), repaired


def _code_argument(arguments: Any, name: str) -> tuple[str | None, str | None]:
    """The program in a call's arguments, or None and what is wrong with them."""
    code = arguments.get("code") if isinstance(arguments, dict) else None
    if not isinstance(code, str):
        return None, f'"{name}" must be an object with the program as a string in "code"'
    return code, None


def _payload(body: str, strict: bool) -> tuple[Any, str | None, bool]:
    """The value in a body, what is wrong with it, and whether it was repaired."""
    try:
        return json.loads(body, strict=False), None, False
    except (ValueError, RecursionError) as error:
        payload = None if strict else _repaired(body)
        if payload is None:
            return None, f"the call is not valid JSON: {error}", False
        return payload, None, True


def _repaired(body: str) -> Any:
    """What a body that is no JSON means; None if part of the program may be missing."""
    end = object_end(body, 0)
    if end:
        return _DECODER.decode(body[:end]) if _harmless(body[end:]) else None
    head = _HEAD.match(body)
    if head is None:
        return None
    quote, program = head["quote"], body[head.end() :].rstrip(_CLOSING)
    closed = program.endswith(quote) and body.rstrip(" \t\r\n,;")[-1] in "}]"
    program = program[:-1]
    backslashes = len(program) - len(program.rstrip("\\"))
    if not closed or backslashes % 2 or _another_key(program, quote):
        return None
    arguments = {"code": _ESCAPE.sub(_unescaped, program)}
    return {"name": head["name"], head["key"]: arguments} if head["key"] else arguments


def _harmless(rest: str) -> bool:
    """Whether what follows an object is no part of its program: brackets, then lines of prose.

    If a program holds a quotation mark that is not escaped, the object may seem to end there.
    Another mark then follows.
    """
    rest = rest.lstrip(" \t,;}]")
    return not rest.strip() or (rest[0] in "\r\n" and '"' not in rest)


def _another_key(program: str, quote: str) -> bool:
    """Whether the program seems to be followed by further arguments."""
    return re.search(rf"""{quote}\s*,\s*["']\w+["']\s*:""", program) is not None


def _unescaped(escape: re.Match[str]) -> str:
    """What an escape of JSON or of a single quotation mark stands for; any other is itself."""
    if escape[0] == "\\'":
        return "'"
    try:
        return str(json.loads(f'"{escape[0]}"'))
    except ValueError:
        return escape[0]
