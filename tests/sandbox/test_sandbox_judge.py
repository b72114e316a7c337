"""Judging: what passes, what does not, and what does not fool it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
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
        ("nan", "NaN", True), ("1e400", "inf", True), ("1", "1.0", True), ("yes", "1", False),
        ("1000000006.0", "1000000007", False), ("1000000007.0", "1000000007", True),
        ("500000003.5", "500000004", False), ("1e9", "1000000000", True), ("1_0", "10", False),
        ("\u0661\u0660", "10", False), ("101", "0101", False), ("0101", "101", False),
        ("-0", "0", True), ("+5", "5", True), (".5", "0.5", True), ("00.5", "0.5", False),
        ("1e-12", "0.0", True), ("nan", "5", False), ("9" * 5000, "5.0", False),
        ("1" * 5000, "2" * 5000, False), ("1" * 5000, "1" * 5000, True),
        ("1" + "0" * 5000, "1e5000", True), ("1e99999999999999999999", "7", False),
        ("1e999999999", "7", False), ("snan", "7", False), ("0x10", "16", False),
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
    assert same_value(2.0, 2, 1e-6) and not same_value(1000000006.0, 1000000007, 1e-6)
    assert same_value({0.1 + 0.2, 1}, {0.3, 1.0}, 1e-6) and not same_value({0.31}, {0.3}, 1e-6)
    assert same_value(1e-9j, 0j, 1e-6) and not same_value(True, 1.0, 1e-6)
    assert same_value(0.31, 0.3, 0.1) and not same_value([1], {1}, 1e-6)


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


@pytest.mark.parametrize(
    "ends",
    [
        "import atexit; atexit.register(print, 'bye')",
        "import atexit; atexit.register(lambda: 1 / 0)",
        "import sys, io; sys.stdout = io.StringIO()",
        "import sys; sys.stdout.close()",
        "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()",
    ],
)
def test_what_comes_after_the_answer_does_not_count(box: Sandbox, ends: str) -> None:
    code = f"def solve(a):\n    {ends}\n    return a * 2"
    assert passes(box, code, CallTest("solve", (3,), 6))


def test_threads_that_print_do_not_get_into_the_answer(box: Sandbox) -> None:
    code = """
import threading
def solve(a):
    def noise():
        while True: print("noise", end="")
    threading.Thread(target=noise).start()
    return list(range(a))
"""
    test, limits = CallTest("solve", (20_000,), list(range(20_000))), Limits(output_bytes=1 << 28)
    (verdict,) = judge(box, code, [test], limits=limits)
    assert verdict.passed, verdict.why


def test_a_prefix_runs_first_and_the_future_stays_in_front(box: Sandbox) -> None:
    code = "from __future__ import annotations\ndef solve(a: nothing): return sqrt(a)"
    (verdict,) = judge(box, code, [CallTest("solve", (4,), 2.0)], prefix="from math import sqrt")
    assert verdict.passed
    (verdict,) = judge(box, "x =", [StdioTest("", "")], prefix="from re import *")
    assert "SyntaxError" in verdict.why
    assert verdict.result is not None and 'File "program.py", line 1\n    x =' in (
        verdict.result.traceback
    )


def test_integers_may_have_any_number_of_digits(box: Sandbox) -> None:
    assert passes(box, "print(10 ** 5000)", StdioTest("", "1" + "0" * 5000), "tolerant")
    assert passes(box, SOLVE.format("10 ** a"), CallTest("solve", (5000,), 10**5000))
    (verdict,) = judge(box, SOLVE.format("[10 ** a]"), [CallTest("solve", (5000,), [1])])
    assert verdict.why == "returned [<an integer of 16610 bits>], not [1]"


def test_arguments_of_many_numbers_cost_little() -> None:
    numbers = list(range(100_000))

    def cpu_s(action: Callable[[], object]) -> float:
        began = time.process_time()
        action()
        return time.process_time() - began

    compared = min(cpu_s(lambda: json.dumps(numbers)) for _ in range(3))
    assert min(cpu_s(lambda: CallTest("solve", (numbers,), 1)) for _ in range(3)) < 8 * compared


def test_a_comparison_of_ones_own(box: Sandbox) -> None:
    tests = [CallTest("solve", (3,), "3"), StdioTest("", "3")]
    verdicts = judge(
        box,
        SOLVE.format("a") + "print('...3')",
        tests,
        match=lambda a, b: str(a)[-2:].strip()[-1] == b,
    )
    assert [verdict.passed for verdict in verdicts] == [True, True]


def test_a_why_has_a_bounded_length_and_no_lone_surrogates(box: Sandbox) -> None:
    for value in ("'\\ud800'", "[[[[a] * 9] * 9] * 9] * 9", "{i: {'x' * 99} for i in range(99)}"):
        (verdict,) = judge(box, SOLVE.format(value), [CallTest("solve", (3,), 6)])
        assert verdict.why.startswith("returned ") and len(verdict.why.encode()) < 300
