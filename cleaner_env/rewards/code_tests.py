"""The code reward: a program is right when it passes the task's tests, each run in the sandbox.

A task's ``entry`` holds ``tests``, a list of mappings, each of one of three kinds:

- ``{"input": "3\\n", "output": "6\\n"}``: the program reads the input and must print the output;
- ``{"call": "solve([1, 2], k=3)", "returns": "6"}``: two literals of Python; the value is compared
  outside of the sandbox, so nothing that a program does to its own process makes it right;
- ``{"check": "def check(candidate): ...", "entry_point": "solve"}``: assertions, run beside the
  program. A call within a ``check`` that compares with a literal is taken out and judged as the
  second kind; where that is not possible, a program that inspects its own frames could find them.

Or ``tests`` is an ``EncodedTests``. ``entry`` may also have ``prefix`` (source before the program),
``seconds`` and ``memory_mb`` (limits of each test).
"""

from __future__ import annotations

import ast
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cleaner_env.rewards.encoded_tests import EncodedTests
from cleaner_env.task import Task
from sandbox import Limits
from sandbox.judge import CallTest, Runner, StdioTest, Test, judge

SECONDS = 6.0
"""Wall and CPU time of one test where the task does not say; LiveCodeBench's own limit."""
MEMORY_MB = 1024
_OUTPUT_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class _Case:
    """A test, and the source that it needs behind the program."""

    test: Test
    appended: str = ""


def code_score(program: str, task: Task, runner: Runner | None) -> float:
    """The share of the task's tests that the program passes."""
    if runner is None:
        raise ValueError("the code reward runs programs: give score() a sandbox")
    cases = _cases(task.entry)
    passed = 0
    for appended in dict.fromkeys(case.appended for case in cases):
        tests = [case.test for case in cases if case.appended == appended]
        verdicts = judge(
            runner,
            _assembled(program, task.entry, appended),
            [_fitting(test, program) for test in tests],
            # Printed text is compared as words and numbers, as judges of contests do.
            match="tolerant" if isinstance(tests[0], StdioTest) else "exact",
            limits=_limits(task.entry, tests),
        )
        passed += sum(verdict.passed for verdict in verdicts)
    return passed / len(cases)


def check_tests(task: Task) -> None:
    """Raise ValueError when a task's tests cannot be read; says which one."""
    tests = task.entry.get("tests")
    if isinstance(tests, EncodedTests):
        tests.check()
    else:
        _cases(task.entry)


def _cases(entry: Mapping[str, Any]) -> list[_Case]:
    tests = entry.get("tests")
    if isinstance(tests, EncodedTests):
        return [_Case(test) for test in tests.decode()]
    if not isinstance(tests, Sequence) or isinstance(tests, str) or not tests:
        raise ValueError(f"the code reward needs entry['tests'], a list of tests, not {tests!r}")
    cases: list[_Case] = []
    for number, test in enumerate(tests, start=1):
        try:
            cases += _read(test)
        except (ValueError, SyntaxError, TypeError) as error:
            raise ValueError(f"test {number} of {len(tests)}: {error}") from error
    return cases


def _read(test: Mapping[str, Any]) -> list[_Case]:
    keys = set(test)
    if keys == {"input", "output"}:
        return [_Case(StdioTest(str(test["input"]), str(test["output"])))]
    if keys == {"call", "returns"}:
        call = ast.parse(test["call"].strip(), mode="eval").body
        return [_Case(_call_test(call, ast.literal_eval(test["returns"]), ast.unparse))]
    if keys == {"check", "entry_point"}:
        return _checks(test["check"], test["entry_point"])
    raise ValueError(
        "a test has the keys input and output, call and returns, or check and entry_point; "
        f"not {sorted(map(str, keys))}"
    )


def _call_test(call: ast.expr, expected: Any, name: Callable[[ast.expr], str]) -> CallTest:
    if not isinstance(call, ast.Call) or any(word.arg is None for word in call.keywords):
        raise ValueError(f"not a call with plain arguments: {ast.unparse(call)!r}")
    return CallTest(
        name(call.func),
        tuple(ast.literal_eval(argument) for argument in call.args),
        expected,
        {str(word.arg): ast.literal_eval(word.value) for word in call.keywords},
    )


def _checks(source: str, entry_point: str) -> list[_Case]:
    """The assertions of a ``check`` function as calls; as one case where that is not possible."""
    tree = ast.parse(source)
    functions = [node for node in tree.body if not isinstance(node, ast.Assign)]
    if len(functions) == 1 and isinstance(functions[0], ast.FunctionDef):
        try:
            asserted = [_asserted_call(node, entry_point) for node in functions[0].body]
        except (ValueError, SyntaxError, TypeError):
            asserted = []
        if any(asserted):
            return [_Case(test) for test in asserted if test is not None]
    token = secrets.token_hex(8)
    runs = f"{source}\n\ndef _checked_{token}():\n    check({entry_point})\n    return {token!r}\n"
    return [_Case(CallTest(f"_checked_{token}", (), token), runs)]


def _asserted_call(node: ast.stmt, entry_point: str) -> CallTest | None:
    """``assert candidate(...) == literal`` as a test; None for ``assert True``; else ValueError."""
    if isinstance(node, ast.Pass):
        return None
    if not isinstance(node, ast.Assert):
        raise ValueError("not an assertion")
    if isinstance(node.test, ast.Constant) and node.test.value:
        return None
    match node.test:
        case ast.Compare(left=call, ops=[ast.Eq()], comparators=[expected]):
            value = ast.literal_eval(expected)
            return _call_test(call, value, lambda function: _named(function, entry_point))
    raise ValueError("not a comparison with a literal")


def _named(function: ast.expr, entry_point: str) -> str:
    if not isinstance(function, ast.Name) or function.id != "candidate":
        raise ValueError("not a call of the candidate")
    return entry_point


def _assembled(program: str, entry: Mapping[str, Any], appended: str) -> str:
    return "\n\n".join(part for part in (entry.get("prefix", ""), program, appended) if part)


def _fitting(test: Test, program: str) -> Test:
    """A method of ``Solution`` becomes a function where the program defines no such class."""
    if isinstance(test, CallTest) and test.function.startswith("Solution()."):
        if "class Solution" in program:
            return test
        function = test.function.removeprefix("Solution().")
        return CallTest(function, test.arguments, test.expected, test.keywords)
    return test


def _limits(entry: Mapping[str, Any], tests: Sequence[Test]) -> Limits:
    """Limits of each test; the output may be as long as the expected one twice over."""
    expected = max(
        len(test.expected if isinstance(test, StdioTest) else repr(test.expected)) for test in tests
    )
    seconds = float(entry.get("seconds", SECONDS))
    return Limits(
        wall_s=seconds,
        cpu_s=seconds,
        memory_mb=int(entry.get("memory_mb", MEMORY_MB)),
        output_bytes=max(_OUTPUT_BYTES, 2 * expected),
    )
