"""JSON calls: the program in an object with a name and arguments, as in three of the formats.

Any program can be written, because JSON can write every character as an escape.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from cleaner_env.formats.protocol import TOOL_NAME

_LONGEST_REPAIR = 4096
"""The most characters of a call that is repaired. json-repair takes seconds for nonsense of 10,000,
as a policy that repeats itself may write, and a quarter of a second for this much."""

Read = tuple[str | None, str | None, bool]
"""The program or None, what is wrong or None, and whether a repair was needed."""


def require_repair() -> None:
    """Raise ImportError if JSON cannot be repaired."""
    if find_spec("json_repair") is None:
        raise ImportError(
            "strict=False repairs JSON with the json-repair package, which is not installed: "
            "pip install -e '.[lenient]' (or pip install json-repair)"
        )


def dump(value: Any, *markers: str) -> str:
    r"""JSON without any of the markers: their first character is escaped as ``\u....``."""
    text = json.dumps(value, ensure_ascii=False)
    for marker in markers:
        text = text.replace(marker, f"\\u{ord(marker[0]):04x}{marker[1:]}")
    return text


def read_call(body: str, argument_keys: Sequence[str], strict: bool) -> Read:
    """Read the program in the JSON object of a call.

    ``argument_keys`` are the allowed names of the arguments; error messages use the first.
    """

    def code_of(payload: Any) -> tuple[str | None, str | None]:
        if not isinstance(payload, dict):
            return None, f'the call must be an object with "name" and "{argument_keys[0]}"'
        name = payload.get("name")
        if name != TOOL_NAME:
            return None, f"there is no tool named {name!r}; the only tool is {TOOL_NAME!r}"
        given = [payload[key] for key in argument_keys if key in payload]
        return code_argument(given[0] if given else None, argument_keys[0])

    def whole(payload: Any) -> bool:
        return isinstance(payload, dict) and any(
            payload.keys() - {"type"} == {"name", key} and payload[key].keys() == {"code"}
            for key in argument_keys
            if isinstance(payload.get(key), dict)
        )

    return _read(body, code_of, whole, strict)


def read_arguments(body: str, strict: bool) -> Read:
    """Read the program in the JSON object of a call's arguments, without the name."""

    def code_of(payload: Any) -> tuple[str | None, str | None]:
        return code_argument(payload, "arguments")

    def whole(payload: Any) -> bool:
        return isinstance(payload, dict) and payload.keys() == {"code"}

    return _read(body, code_of, whole, strict)


def code_argument(arguments: Any, name: str) -> tuple[str | None, str | None]:
    """The program in a call's arguments, or None and what is wrong with them."""
    code = arguments.get("code") if isinstance(arguments, dict) else None
    if not isinstance(code, str):
        return None, f'"{name}" must be an object with the program as a string in "code"'
    return code, None


def _read(
    body: str,
    code_of: Callable[[Any], tuple[str | None, str | None]],
    whole: Callable[[Any], bool],
    strict: bool,
) -> Read:
    """Read JSON as it is, or repair it if that fails.

    ``whole`` tells whether an object has the call's keys and no others. A repaired object must: if
    quotation marks in the program are not escaped, a repair may end the program at one of them and
    take the rest for further keys.
    """
    try:
        payload = json.loads(body, strict=False)
    except (ValueError, RecursionError) as error:
        if not strict and whole(payload := _repair(body)):
            code, problem = code_of(payload)
            return code, problem, True
        return None, f"the call is not valid JSON: {error}", False
    code, problem = code_of(payload)
    return code, problem, False


def _repair(body: str) -> Any:
    """Repair JSON with json-repair; None if that fails."""
    if len(body) > _LONGEST_REPAIR:
        return None
    import json_repair  # an optional dependency

    try:
        return json_repair.loads(body)
    except (ValueError, RecursionError):
        return None
