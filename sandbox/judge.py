"""Judges a program by tests: each in its own execution, compared outside of it.

    verdicts = judge(sandbox, "print(int(input()) * 2)", [StdioTest("3\\n", "6\\n")])
    assert all(verdict.passed for verdict in verdicts)

The program never sees what is expected of it, so nothing that it forges helps it to pass.
"""

from __future__ import annotations

import ast
import json
import math
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from .result import Limits, Result, Status

Match = Literal["exact", "tolerant"]
PARALLEL = 8  # tests in flight; the sandbox runs as many of them as it has workers
ABSOLUTE = 1e-9  # the tolerance next to zero
UNKNOWN = object()


class Runner(Protocol):
    """What runs programs: a Sandbox, or a client with the same interface."""

    def run(self, code: str, *, stdin: str = "", limits: Limits | None = None) -> Result: ...


@dataclass(frozen=True, slots=True)
class StdioTest:
    """The program reads `stdin` and must print `expected`."""

    stdin: str
    expected: str


@dataclass(frozen=True, slots=True)
class CallTest:
    """`function(*arguments, **keywords)`, after the program has run, must return `expected`.

    function is a name or a dotted one, and may make an object: "solve", "Solution().solve".
    Arguments are made of None, booleans, numbers, strings, bytes, lists, tuples, dicts and sets;
    ValueError for others. A list and a tuple of the same items are equal.
    """

    function: str
    arguments: tuple[Any, ...]
    expected: Any
    keywords: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = (self.arguments, self.keywords)
        try:
            same_again = ast.literal_eval(repr(given)) == given
        except (ValueError, SyntaxError):
            same_again = False
        if not same_again:
            raise ValueError(f"arguments must be plain finite data, not {given!r}")
        if not all(part.removesuffix("()").isidentifier() for part in self.function.split(".")):
            raise ValueError(f"function must be a name such as solve, not {self.function!r}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one test.

    why      "" when passed, else one line for people
    result   the execution, None when the test was not run because one before it failed
    """

    passed: bool
    why: str
    result: Result | None


Test = StdioTest | CallTest


def judge(
    runner: Runner,
    program: str,
    tests: Sequence[Test],
    *,
    match: Match = "exact",
    tolerance: float = 1e-6,
    stop_at_first_failure: bool = False,
    limits: Limits | None = None,
) -> list[Verdict]:
    """One verdict per test, in their order. A test passes when the program ends well, and right.

    match "tolerant": of text, the words count and not the space between them; numbers, in text or
    returned, may differ by the relative `tolerance`, integers excepted.

    Raises SandboxError when the sandbox itself fails, ValueError for an unknown `match`.
    """
    if match not in ("exact", "tolerant"):
        raise ValueError(f'match must be "exact" or "tolerant", not {match!r}')
    margin = tolerance if match == "tolerant" else None

    def one(test: Test) -> Verdict:
        if isinstance(test, StdioTest):
            return judge_output(runner, program, test, margin, limits)
        return judge_call(runner, program, test, margin, limits)

    if not stop_at_first_failure:
        with ThreadPoolExecutor(PARALLEL, "judge") as threads:
            return list(threads.map(one, tests))
    verdicts: list[Verdict] = []
    for test in tests:
        verdicts.append(one(test))
        if not verdicts[-1].passed:
            break
    skipped = Verdict(False, "not run: a test before it failed", None)
    return verdicts + [skipped] * (len(tests) - len(verdicts))


def judge_output(
    runner: Runner, program: str, test: StdioTest, margin: float | None, limits: Limits | None
) -> Verdict:
    result = runner.run(program, stdin=test.stdin, limits=limits)
    if not result.ok:
        return failed(result)
    if same_text(result.stdout, test.expected, margin):
        return Verdict(True, "", result)
    return Verdict(False, f"printed {shown(result.stdout)}, not {shown(test.expected)}", result)


def judge_call(
    runner: Runner, program: str, test: CallTest, margin: float | None, limits: Limits | None
) -> Verdict:
    mark = secrets.token_hex(8)
    call = f"{test.function}(*{test.arguments!r}, **{test.keywords!r})"
    driver = DRIVER.replace("MARK", mark).replace("CALL", call)
    result = runner.run(f"{program}\n\n{driver}", limits=limits)
    if not result.ok:
        return failed(result)
    value = returned(result.stdout, mark)
    if value is UNKNOWN:
        return Verdict(False, "the program ended before the call returned", result)
    if same_value(value, test.expected, margin):
        return Verdict(True, "", result)
    return Verdict(False, f"returned {shown(value)}, not {shown(test.expected)}", result)


# Runs behind the program, in its own execution. What it prints is a claim, no more.
DRIVER = """
def _call_MARK():
    import json
    def plain(v):
        for kind in (bool, int, float, str):
            if isinstance(v, kind):
                return kind(v)  # of a subclass too: numpy has one of float
        if v is None:
            return v
        if isinstance(v, dict):
            return ["dict", *([plain(k), plain(x)] for k, x in v.items())]
        for kind in (list, tuple, set, frozenset):
            if isinstance(v, kind):
                return [kind.__name__, *map(plain, v)]
        for way in ("tolist", "item"):
            if hasattr(v, way):
                return plain(getattr(v, way)())
        return ["other", repr(v)]
    text = json.dumps(plain(CALL))
    print("\\nMARK" + text, flush=True)
_call_MARK()
"""


def returned(stdout: str, mark: str) -> Any:
    """The value that the driver printed, UNKNOWN when there is none that can be read."""
    _, found, text = stdout.rpartition(f"\n{mark}")
    if not found:
        return UNKNOWN
    try:
        return decode(json.loads(text))
    except (ValueError, TypeError, IndexError, RecursionError):
        return UNKNOWN


def decode(data: Any) -> Any:
    if not isinstance(data, list):
        return data
    kind, *items = data
    if kind == "dict":
        return {decode(key): decode(value) for key, value in items}
    if kind == "other":
        return Unprintable(items[0])
    makers = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    return makers.get(kind, list)(decode(item) for item in items)


@dataclass(frozen=True, slots=True)
class Unprintable:
    """A value of a type that is not plain data; equal to nothing that is expected."""

    text: str

    def __repr__(self) -> str:
        return self.text


def same_text(actual: str, expected: str, margin: float | None) -> bool:
    if margin is None:
        return actual == expected
    words, wanted = actual.split(), expected.split()
    if len(words) != len(wanted):
        return False
    return all(same_word(a, b, margin) for a, b in zip(words, wanted, strict=True))


def same_word(actual: str, expected: str, margin: float) -> bool:
    if actual == expected:
        return True
    values = (number(actual), number(expected))
    if None in values or all(isinstance(value, int) for value in values):
        return values[0] is not None and values[0] == values[1]
    return same_value(values[0], values[1], margin)


def number(word: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(word)
        except (ValueError, OverflowError):
            continue
    return None


def same_value(actual: Any, expected: Any, margin: float | None) -> bool:
    """Equality of plain data; a list equals a tuple, and floats may differ by `margin`."""
    if isinstance(actual, list | tuple) and isinstance(expected, list | tuple):
        return len(actual) == len(expected) and all(
            same_value(a, b, margin) for a, b in zip(actual, expected, strict=True)
        )
    if isinstance(actual, dict) and isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(
            same_value(actual[key], expected[key], margin) for key in expected
        )
    if isinstance(actual, bool) or isinstance(expected, bool):
        return actual is expected
    if margin is not None and is_number(actual) and is_number(expected):
        return close(actual, expected, margin)
    return bool(actual == expected)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def close(actual: float, expected: float, margin: float) -> bool:
    if isinstance(actual, int) and isinstance(expected, int):
        return actual == expected
    try:
        if math.isnan(actual) or math.isnan(expected):
            return math.isnan(actual) and math.isnan(expected)
        return math.isclose(actual, expected, rel_tol=margin, abs_tol=ABSOLUTE)
    except OverflowError:  # an integer beyond the floats
        return actual == expected


def failed(result: Result) -> Verdict:
    lines = result.traceback.strip().splitlines()
    why = lines[-1] if lines else f"exit status {result.exit_code}"
    kind = "error" if result.status is Status.ERROR else str(result.status)
    return Verdict(False, f"{kind}: {shown(why)}", result)


def shown(value: object) -> str:
    text = value if isinstance(value, str) and "\n" not in value else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
