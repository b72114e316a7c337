"""The code reward: a program is right if it passes the task's tests, each run in the sandbox.

The ``tests`` in a task's ``entry`` are a list of mappings of three kinds:

- ``{"input": "3\\n", "output": "6\\n"}``: the program reads the input and must print the output.
- ``{"call": "solve([1, 2], k=3)", "returns": "6"}``: the call must return the value, a Python
  literal. They are compared outside the sandbox, so a program cannot make itself right by anything
  it does to its own process.
- ``{"check": "def check(candidate): ...", "entry_point": "solve"}``: the assertions must hold. They
  run in a separate execution, which receives nothing but plain values from the program's (see
  ``checks``).

Printed text is compared word by word, and returned values by value: integers exactly, floats up to
a relative ``tolerance`` (1e-6). Alternatively, ``tests`` is an ``EncodedTests``, which is judged as
LiveCodeBench does. ``entry`` may also have ``tolerance``, ``prefix`` (source to run before the
program), ``seconds`` and ``memory_mb`` (limits of each test, or of all calls of a check).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cleaner_env.rewards.checks import check_counts
from cleaner_env.rewards.encoded_tests import EncodedTests
from cleaner_env.rewards.livecodebench import harness, same_lines, same_prediction
from cleaner_env.task import Task
from sandbox import Limits
from sandbox.judge import CallTest, Runner, StdioTest, Test, judge

SECONDS = 6.0
"""Wall-clock and CPU time of a test, unless the task says otherwise; LiveCodeBench's own limit."""
MEMORY_MB = 1024
_OUTPUT_BYTES = 65_536
_CHECK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class _Check:
    """Assertions about the function ``entry_point``."""

    source: str
    entry_point: str


def code_score(program: str, task: Task, runner: Runner | None) -> float:
    """The share of the task's tests, and of the assertions in its checks, that a program passes."""
    if runner is None:
        raise ValueError("the code reward runs programs: give score() a sandbox")
    entry, tests = task.entry, task.entry.get("tests")
    if isinstance(tests, EncodedTests):
        same = same_prediction if tests.function else same_lines
        cases = tests.decode()
        verdicts = judge(runner, harness(program), cases, match=same, limits=_limits(entry, cases))
        return sum(verdict.passed for verdict in verdicts) / len(verdicts)
    read = _tests(entry)
    prefix = str(entry.get("prefix", ""))
    plain = [_fitting(test, program) for test in read if not isinstance(test, _Check)]
    verdicts = judge(
        runner,
        program,
        plain,
        match="tolerant",
        tolerance=_tolerance(entry),
        limits=_limits(entry, plain),
        prefix=prefix,
    )
    passed, total = sum(verdict.passed for verdict in verdicts), len(verdicts)
    for test in read:
        if isinstance(test, _Check):
            entry_point = _fitting_name(test.entry_point, program)
            limits = _limits(entry, plain, _CHECK_BYTES)
            held, made = check_counts(runner, program, prefix, test.source, entry_point, limits)
            passed, total = passed + held, total + made
    return passed / total


def check_tests(task: Task) -> None:
    """Raise ValueError, which says which test it is, if a task's tests cannot be read."""
    tests = task.entry.get("tests")
    if isinstance(tests, EncodedTests):
        tests.check()
    else:
        _tests(task.entry)
    _tolerance(task.entry)


def _tests(entry: Mapping[str, Any]) -> list[Test | _Check]:
    tests = entry.get("tests")
    if not isinstance(tests, Sequence) or isinstance(tests, str) or not tests:
        raise ValueError(f"the code reward needs entry['tests'], a list of tests, not {tests!r}")
    read: list[Test | _Check] = []
    for number, test in enumerate(tests, start=1):
        try:
            read.append(_read(test))
        except (ValueError, SyntaxError, TypeError) as error:
            raise ValueError(f"test {number} of {len(tests)}: {error}") from error
    return read


def _read(test: Mapping[str, Any]) -> Test | _Check:
    keys = set(test)
    if keys == {"input", "output"}:
        return StdioTest(str(test["input"]), str(test["output"]))
    if keys == {"call", "returns"}:
        return _call_test(ast.parse(test["call"].strip(), mode="eval").body, test["returns"])
    if keys == {"check", "entry_point"}:
        functions = [
            n.name for n in ast.parse(test["check"]).body if isinstance(n, ast.FunctionDef)
        ]
        if "check" not in functions:
            raise ValueError("a check defines a function of the name check")
        return _Check(test["check"], str(test["entry_point"]))
    raise ValueError(
        "a test has the keys input and output, call and returns, or check and entry_point; "
        f"not {sorted(map(str, keys))}"
    )


def _call_test(call: ast.expr, returns: str) -> CallTest:
    if not isinstance(call, ast.Call) or any(word.arg is None for word in call.keywords):
        raise ValueError(f"not a call with plain arguments: {ast.unparse(call)!r}")
    return CallTest(
        ast.unparse(call.func),
        tuple(ast.literal_eval(argument) for argument in call.args),
        ast.literal_eval(returns),
        {str(word.arg): ast.literal_eval(word.value) for word in call.keywords},
    )


def _tolerance(entry: Mapping[str, Any]) -> float:
    tolerance = entry.get("tolerance", 1e-6)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not tolerance >= 0:
        raise ValueError(f"entry['tolerance'] must be a number from 0 on, not {tolerance!r}")
    return float(tolerance)


def _fitting(test: Test, program: str) -> Test:
    if isinstance(test, StdioTest):
        return test
    return replace(test, function=_fitting_name(test.function, program))


def _fitting_name(function: str, program: str) -> str:
    """The function's name, without ``Solution()`` if the program defines no such class."""
    return function if "class Solution" in program else function.removeprefix("Solution().")


def _limits(
    entry: Mapping[str, Any], tests: Sequence[Test], output_bytes: int = _OUTPUT_BYTES
) -> Limits:
    """Limits of each test; the output may be twice as long as the expected one."""
    expected = max((_length(test.expected) for test in tests), default=0)
    seconds = float(entry.get("seconds", SECONDS))
    return Limits(
        wall_s=seconds,
        cpu_s=seconds,
        memory_mb=int(entry.get("memory_mb", MEMORY_MB)),
        output_bytes=max(output_bytes, 2 * expected),
    )


def _length(value: Any) -> int:
    """About how many bytes it takes to write the value."""
    if isinstance(value, int):
        return value.bit_length()  # decimal digits are limited
    if isinstance(value, dict):
        return sum(_length(part) + 16 for item in value.items() for part in item)
    if isinstance(value, list | tuple | set | frozenset):
        return sum(_length(item) + 16 for item in value)
    return len(ascii(value))
