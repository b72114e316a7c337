"""Judges a program by tests: each in its own execution, compared outside of it.

    verdicts = judge(sandbox, "print(int(input()) * 2)", [StdioTest("3\\n", "6\\n")])
    assert all(verdict.passed for verdict in verdicts)

The program never sees what is expected of it, so nothing that it forges helps it to pass.
"""

from __future__ import annotations

import ast
import json
import math
import reprlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

from .answers import answers, decode, started
from .comparison import same_text, same_value
from .result import Limits, Result, Status

Match = Literal["exact", "tolerant"]
Same = Callable[[Any, Any], bool]
PARALLEL = 8  # tests in flight; the sandbox runs as many of them as it has workers


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
        if not is_json([*self.arguments, self.keywords]):
            try:
                same_again = ast.literal_eval(repr(given)) == given
            except (ValueError, SyntaxError):
                same_again = False
            if not same_again:
                raise ValueError(f"arguments must be plain finite data, not {shown(given)}")
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
    match: Match | Same = "exact",
    tolerance: float = 1e-6,
    stop_at_first_failure: bool = False,
    limits: Limits | None = None,
    prefix: str = "",
) -> list[Verdict]:
    """One verdict per test, in their order. A test passes when the program ends well, and right.

    match      "tolerant": of text, the words count and not the space between them; floats, in text
               or returned, may differ by the relative `tolerance`, integers not at all. Or a
               function of what came and what is expected, which never raises
    prefix     source that runs before the program, in the same namespace

    A call is judged by what it returns: what the program does afterwards is not waited for.

    Raises SandboxError when the sandbox itself fails, ValueError for an unknown `match`.
    """
    if match not in ("exact", "tolerant") and not callable(match):
        raise ValueError(f'match must be "exact", "tolerant" or a function, not {match!r}')
    margin = tolerance if match == "tolerant" else None
    parts = {"prefix.py": prefix, "program.py": program} if prefix else {"program.py": program}

    def one(test: Test) -> Verdict:
        if isinstance(test, StdioTest):
            same = match if callable(match) else partial(same_text, margin=margin)
            return judge_output(runner, parts, test, same, limits)
        same = match if callable(match) else partial(same_value, margin=margin)
        return judge_call(runner, parts, test, same, limits)

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
    runner: Runner, parts: Mapping[str, str], test: StdioTest, same: Same, limits: Limits | None
) -> Verdict:
    result = runner.run(started(parts), stdin=test.stdin, limits=limits)
    if not result.ok:
        return failed(result)
    if same(result.stdout, test.expected):
        return Verdict(True, "", result)
    return Verdict(False, f"printed {shown(result.stdout)}, not {shown(test.expected)}", result)


def judge_call(
    runner: Runner, parts: Mapping[str, str], test: CallTest, same: Same, limits: Limits | None
) -> Verdict:
    if is_json([*test.arguments, test.keywords]):  # quick to read, where source is not
        given = json.dumps([test.arguments, test.keywords])
        tail = f"_judge['given'] = __import__('json').loads({given!r})\n"
    else:
        tail = f"_judge['given'] = {(test.arguments, test.keywords)!r}\n"
    mark = secrets.token_hex(8)
    call = f"{test.function}(*_judge['given'][0], **_judge['given'][1])"
    # What comes after the answer has no part in it: threads that go on, what runs at exit.
    tail += f"_judge['answer']({mark!r}, _judge['encode']({call}))\n__import__('os')._exit(0)"
    result = runner.run(started(parts, tail), limits=limits)
    if not result.ok:
        return failed(result)
    texts = answers(result.stdout, mark)
    if not texts:
        return Verdict(False, "the program ended before the call returned", result)
    try:
        value = decode(texts[0], Unprintable)
    except ValueError as error:
        return Verdict(False, f"what it returned cannot be read: {error}", result)
    if same(value, test.expected):
        return Verdict(True, "", result)
    return Verdict(False, f"returned {shown(value)}, not {shown(test.expected)}", result)


def is_json(value: Any) -> bool:
    """Whether JSON gives the very same value back."""
    kind = type(value)
    if kind is list:
        return all(map(is_json, value))
    if kind is dict:
        return all(type(key) is str for key in value) and all(map(is_json, value.values()))
    if kind is int:
        return bool(value.bit_length() < 10_000)  # Python refuses to write longer ones
    return value is None or kind in (bool, str) or (kind is float and math.isfinite(value))


@dataclass(frozen=True, slots=True)
class Unprintable:
    """A value of a type that is not plain data; equal to nothing that is expected."""

    text: str

    def __repr__(self) -> str:
        return self.text


def failed(result: Result) -> Verdict:
    lines = result.traceback.strip().splitlines()
    why = lines[-1] if lines else f"exit status {result.exit_code}"
    kind = "error" if result.status is Status.ERROR else str(result.status)
    return Verdict(False, f"{kind}: {why:.200}", result)


class Short(reprlib.Repr):
    """A repr of bounded length and depth, at bounded cost, whatever the value is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 10
        self.maxstring = self.maxlong = self.maxother = 200

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() > 10_000:  # Python refuses to write it
            return f"<an integer of {x.bit_length()} bits>"
        return super().repr_int(x, level)


def shown(value: object) -> str:
    text = Short().repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
