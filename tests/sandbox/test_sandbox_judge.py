"""Judging: what passes, what does not, and what does not fool it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sandbox import Limits, Sandbox, Status
from sandbox.comparison import same_text, same_value
from sandbox.judge import CallTest, Match, StdioTest, judge

DOUBLE = "print(int(input()) * 2)"


def passes(box: Sandbox, program: str, test: StdioTest | CallTest, match: Match = "exact") -> bool:
    (verdict,) = judge(box, program, [test], match=match)
    assert verdict.passed == (verdict.why == "")
    return verdict.passed


def test_one_verdict_per_test(box: Sandbox) -> None:
    tests = [StdioTest("3", "6\n"), StdioTest("4", "9\n"), StdioTest("x", "0\n")]
    verdicts = judge(box, DOUBLE, tests)
    assert [verdict.passed for verdict in verdicts] == [True, False, False]
    assert verdicts[1].why == "printed '8\\n', not '9\\n'"
    assert "ValueError" in verdicts[2].why


def test_stop_at_first_failure(box: Sandbox) -> None:
    tests = [StdioTest("3", "6\n"), StdioTest("4", "9\n"), StdioTest("5", "10\n")]
    verdicts = judge(box, DOUBLE, tests, stop_at_first_failure=True)
    assert [verdict.passed for verdict in verdicts] == [True, False, False]
    assert verdicts[2].result is None and "not run" in verdicts[2].why


def test_tests_do_not_see_each_other(box: Sandbox) -> None:
    code = "import os; print(os.path.exists('/tmp/seen')); open('/tmp/seen', 'w')"
    verdicts = judge(box, code, [StdioTest("", "False\n")] * 3)
    assert all(verdict.passed for verdict in verdicts)


def test_a_right_answer_from_a_failing_program_does_not_pass(box: Sandbox) -> None:
    assert not passes(box, "print(6)\n1 / 0", StdioTest("", "6\n"))


def test_a_timeout_is_named(box: Sandbox) -> None:
    test = StdioTest("", "")
    (verdict,) = judge(box, "while True: pass", [test], limits=Limits(wall_s=0.3))
    assert verdict.result is not None and verdict.result.status is Status.TIMEOUT
    assert "timeout" in verdict.why


SOLVE = "def solve(a, b=1):\n    return {}\n"


@pytest.mark.parametrize(
    "returns, expected, same",
    [
        ("a + b", 3, True), ("a + b", 4, False), ("[a, (b, None)]", [2, [1, None]], True),
        ("{a: 'x', (1, 2): b}", {2: "x", (1, 2): 1}, True), ("{a, b}", {1, 2}, True),
        ("{a, b}", [1, 2], False), ("'2'", 2, False), ("object()", "x", False),
        ("a / b", 2.0, True), ("True", 1, False), ("float('nan')", 0.0, False),
        ("10 ** 100", 10**100, True), ("__import__('numpy').arange(a)", [0, 1], True),
        ("__import__('numpy').float32(a)", 2.0, True), ("print('noise') or a", 2, True),
        ("None", None, True), ("'\\n\\u00e9\\x00'", "\n\u00e9\x00", True),
    ],
)  # fmt: skip
def test_returned_values(box: Sandbox, returns: str, expected: Any, same: bool) -> None:
    assert passes(box, SOLVE.format(returns), CallTest("solve", (2,), expected)) == same


def test_keywords_and_methods(box: Sandbox) -> None:
    assert passes(box, SOLVE.format("a - b"), CallTest("solve", (2,), -3, {"b": 5}))
    code = "class Solution:\n    def solve(self, xs): return sum(xs)"
    assert passes(box, code, CallTest("Solution().solve", ([1, 2, 3],), 6))


def test_a_missing_function_and_a_raising_one(box: Sandbox) -> None:
    for code, name in (("x = 1", "NameError"), (SOLVE.format("1 / 0"), "ZeroDivisionError")):
        (verdict,) = judge(box, code, [CallTest("solve", (1,), 1)])
        assert not verdict.passed and name in verdict.why


@pytest.mark.parametrize(
    "cheat",
    [
        "import os; print('\\n6'); os._exit(0)",
        "import builtins; builtins.isinstance = lambda *a: True\ndef solve(a): return 0",
        "class All:\n    def __eq__(self, other): return True\n    def __repr__(self): return '6'\n"
        "def solve(a): return All()",
        "import json; json.dumps = lambda v: 'true'\ndef solve(a): return 0",
        "import json; json.dumps = lambda v: '[' * 9000\ndef solve(a): return 0",
        'import json; json.dumps = lambda v: \'["dict", [["list"], 1]]\'\ndef solve(a): return 0',
        "import sys; sys.exit(0)",
    ],
)
def test_cheats_do_not_pass(box: Sandbox, cheat: str) -> None:
    assert not passes(box, cheat, CallTest("solve", (3,), 6))


def test_what_is_expected_is_not_in_the_sandbox(box: Sandbox) -> None:
    code = """
import gc, sys
def solve():
    frame, text = sys._getframe(), ""
    while frame:
        text += str(frame.f_globals) + str(frame.f_locals)
        frame = frame.f_back
    return "73" + "31" in text + str(gc.get_objects()).replace(repr("73" + "31"), "")
"""
    assert passes(box, code, CallTest("solve", (), False)) and not passes(
        box, "def solve(): return 1", CallTest("solve", (), 7331)
    )


@pytest.mark.parametrize(
    "actual, expected, same",
    [
        ("1  2\n3", "1 2 3\n", True), ("1 2", "1 2 3", False), ("0.3000000001", "0.3", True),
        ("0.31", "0.3", False), ("100000000", "100000001", False), ("a", "b", False),
        ("nan", "nan", True), ("1e400", "inf", True), ("1", "1.0", True), ("yes", "1", False),
    ],
)  # fmt: skip
def test_tolerant_text(actual: str, expected: str, same: bool) -> None:
    assert same_text(actual, expected, 1e-6) == same


def test_exact_text_is_exact() -> None:
    assert same_text("a\n", "a\n", None) and not same_text("a", "a\n", None)


def test_tolerant_values() -> None:
    assert same_value([0.1 + 0.2], (0.3,), 1e-6) and not same_value([0.1 + 0.2], [0.3], None)
    assert same_value({"a": math.nan}, {"a": math.nan}, 1e-6)
    assert not same_value(10**400, 1.5, 1e-6)


@pytest.mark.parametrize("bad", [object(), math.inf, print])
def test_arguments_must_be_plain(bad: object) -> None:
    with pytest.raises(ValueError, match="plain finite data"):
        CallTest("solve", (bad,), 1)


@pytest.mark.parametrize("name", ["", "solve(", "os.system('x')", "a b"])
def test_function_must_be_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="function must be a name"):
        CallTest(name, (), 1)


def test_match_must_be_known(box: Sandbox) -> None:
    with pytest.raises(ValueError, match="match"):
        judge(box, "", [], match="fuzzy")  # type: ignore[arg-type]
