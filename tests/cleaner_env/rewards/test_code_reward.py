"""The code reward: programs judged by the tests of a task, in the sandbox."""

import base64
import json
import pickle
import zlib

import pytest

from cleaner_env.env import CodeToolEnv
from cleaner_env.rewards import EncodedTests, check_reward, score
from cleaner_env.rewards.encoded_tests import decode_text
from cleaner_env.task import Task
from cleaner_env.tasks.load import first_tasks, load_tasks

DOUBLE = "print(2 * int(input()))"


def code_task(*tests, **entry):
    return Task("?", "", reward="code", entry={"tests": list(tests), **entry})


def published(cases):
    """LiveCodeBench's encoding of hidden tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def encoded(public, private, function="", **changes):
    return EncodedTests("lcb.jsonl, row 7", function, json.dumps(public), private, **changes)


STDIN = [{"input": "3\n", "output": "6\n"}, {"input": "4\n", "output": "8\n"}]
METHOD = [{"input": "[1, 2]\n3", "output": "6"}]


def test_the_score_is_the_share_of_tests_passed(sandbox):
    task = code_task(*STDIN)
    assert score(DOUBLE, task, sandbox) == 1.0
    assert score("input(); print(6)", task, sandbox) == 0.5
    assert score("pass", task, sandbox) == 0.0


def test_calls_are_compared_by_value(sandbox):
    task = code_task({"call": "pair([1, 2], k=3)", "returns": "(1, {3: 'x'})"})
    assert score("def pair(xs, k): return xs[0], {k: 'x'}", task, sandbox) == 1.0
    assert score("def pair(xs, k): return xs[0], {k: 'y'}", task, sandbox) == 0.0


CHECK = "def check(candidate):\n    assert candidate(2) == 4\n    assert True, 'no'\n"
LOOP = "def check(candidate):\n    for i in range(5):\n        assert candidate(i) == i * i\n"
ESCAPES = "import os\ndef f(x): print('passed'); os._exit(0)"


@pytest.mark.parametrize("check", [CHECK, LOOP], ids=["calls", "loop"])
def test_assertions(sandbox, check):
    task = code_task({"check": check, "entry_point": "f"})
    assert score("def f(x): return x * x", task, sandbox) == 1.0
    assert score("def f(x): return x + 3", task, sandbox) == 0.0
    assert score(ESCAPES, task, sandbox) == 0.0
    assert score("import sys\ndef f(x): sys.exit(0)", task, sandbox) == 0.0
    assert score("", task, sandbox) == 0.0


def test_plain_assertions_are_compared_outside_of_the_sandbox(sandbox):
    """A program that looks for what is expected of it finds nothing."""
    peeks = "import gc\ndef f(x): return next(o for o in gc.get_objects() if o == {'no': 'such'})"
    equal_to_all = "class All(int):\n    __eq__ = lambda *_: True\ndef f(x): return All(0)"
    task = code_task({"check": CHECK, "entry_point": "f"})
    assert score(peeks, task, sandbox) == score(equal_to_all, task, sandbox) == 0.0


def test_a_prefix_stands_before_the_program(sandbox):
    task = code_task({"call": "f(4)", "returns": "2.0"}, prefix="from math import sqrt")
    assert score("def f(x): return sqrt(x)", task, sandbox) == 1.0


def test_long_expected_output_is_not_cut_off(sandbox):
    long = "1234567 " * 20_000
    task = code_task({"input": "", "output": long})
    assert score("print('1234567 ' * 20_000)", task, sandbox) == 1.0


def test_a_method_of_solution_or_a_function_of_its_name(sandbox):
    task = code_task({"call": "Solution().f([1, 2], 3)", "returns": "6"})
    assert (
        score("class Solution:\n    def f(self, xs, k): return sum(xs) + k", task, sandbox) == 1.0
    )
    assert score("def f(xs, k): return sum(xs) + k", task, sandbox) == 1.0


def test_published_tests_are_decoded(sandbox):
    task = code_task()
    task = Task("?", "", reward="code", entry={"tests": encoded(STDIN[:1], published(STDIN[1:]))})
    check_reward(task)
    assert score(DOUBLE, task, sandbox) == 1.0
    assert score("input(); print(6)", task, sandbox) == 0.5


def test_published_functional_tests_are_decoded(sandbox):
    tests = encoded([], published(METHOD), "f")
    task = Task("?", "", reward="code", entry={"tests": tests})
    assert (
        score("class Solution:\n    def f(self, xs, k): return sum(xs) + k", task, sandbox) == 1.0
    )


def test_public_or_private_tests_alone():
    both = STDIN[:1], published(STDIN[1:])
    assert [len(encoded(*both, which=w).decode()) for w in ("all", "public", "private")] == [
        2,
        1,
        1,
    ]
    with pytest.raises(ValueError, match="row 7: the problem has no public tests"):
        encoded([], published(STDIN), which="public").decode()


class Harmful:
    def __reduce__(self):
        return print, ("this program ran while it was read",)


@pytest.mark.parametrize(
    ("value", "why"),
    [(Harmful(), r"names builtins\.print"), ([1], "holds a list"), (b"[]", "holds a bytes")],
)
def test_a_pickle_of_anything_but_a_text_is_refused(value, why, capsys):
    text = base64.b64encode(zlib.compress(pickle.dumps(value))).decode()
    with pytest.raises(ValueError, match=why):
        decode_text(text)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("broken", ["%%%", "AAAA", published(STDIN)[:-8], published(STDIN)[8:]])
def test_broken_encodings_name_the_row(broken):
    with pytest.raises(ValueError, match=r"lcb\.jsonl, row 7: cannot read private_test_cases"):
        encoded(STDIN, broken).decode()


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        (None, "needs entry\\['tests'\\]"),
        ([], "needs entry\\['tests'\\]"),
        ([{"input": "3"}], "test 1 of 1: a test has the keys"),
        ([STDIN[0], {"call": "f(x)", "returns": "1"}], "test 2 of 2"),
        ([{"call": "f", "returns": "1"}], "not a call"),
        ([{"check": "def check(", "entry_point": "f"}], "test 1 of 1"),
    ],
)
def test_tests_that_cannot_be_read_are_refused(tests, why):
    with pytest.raises(ValueError, match=why):
        check_reward(Task("?", "", reward="code", entry={"tests": tests}))


def test_without_a_sandbox_it_says_so():
    with pytest.raises(ValueError, match="give score\\(\\) a sandbox"):
        score(DOUBLE, code_task(*STDIN))


def test_the_environment_judges_a_fenced_program(sandbox):
    env = CodeToolEnv([code_task(*STDIN)], sandbox=sandbox)
    for program, reward in ((DOUBLE, 1.0), ("pass", 0.0)):
        env.reset(seed=0)
        _, earned, terminated, _, info = env.step(f"Here:\n```python\n{program}\n```")
        assert (earned, terminated, info["answer"]) == (reward, True, program)


def emptied(task):
    """The head of HumanEval's function, and ``pass``."""
    return task.prompt.split("```python\n")[1].split("\n```")[0] + "\n    pass\n"


def human_eval(stride=1):
    return first_tasks(load_tasks("humaneval@shuffle=no", "test"), 1000)[::stride]


def test_solutions_pass_and_empty_functions_fail_on_every_sixteenth_problem(sandbox):
    for task in human_eval(16):
        assert score(task.answer, task, sandbox) == 1.0, task.entry
        assert score(emptied(task), task, sandbox) < 1.0, task.entry


@pytest.mark.exhaustive
def test_all_solutions_pass_and_all_empty_functions_fail(sandbox):
    tasks = human_eval()
    assert len(tasks) == 164
    assert all(score(task.answer, task, sandbox) == 1.0 for task in tasks)
    assert all(score(emptied(task), task, sandbox) < 1.0 for task in tasks)


def test_floats_are_close_and_integers_exact_printed_or_returned(sandbox):
    printed = code_task({"input": "", "output": "0.3 7"})
    returned = code_task({"call": "f()", "returns": "[0.3, 7]"})
    for a, b, right in (("0.1 + 0.2", "7", 1.0), ("0.3", "7.0", 1.0), ("0.3", "7.0000001", 0.0)):
        assert score(f"print({a}, {b})", printed, sandbox) == right
        assert score(f"def f(): return {a}, {b}", returned, sandbox) == right


def test_a_row_may_set_its_tolerance(sandbox):
    for test in ({"input": "", "output": "0.5"}, {"call": "f()", "returns": "0.5"}):
        program = "def f(): return 0.51\nprint(f())"
        assert score(program, code_task(test, tolerance=0.1), sandbox) == 1.0
        assert score(program, code_task(test), sandbox) == 0.0
    for bad in (-1, "1e-6", True, float("nan")):
        with pytest.raises(ValueError, match="tolerance"):
            check_reward(code_task(test, tolerance=bad))


def test_the_future_stands_behind_any_prefix(sandbox):
    task = code_task({"call": "f(4)", "returns": "2.0"}, prefix="from math import *")
    program = '"""Text."""\nfrom __future__ import annotations\ndef f(x: y): return sqrt(x)'
    assert score(program, task, sandbox) == 1.0


def test_a_long_value_of_any_letters_is_not_cut_off(sandbox):
    task = code_task({"call": "f(30_000)", "returns": repr("\U0001f600" * 30_000)})
    assert score("def f(n): return '\U0001f600' * n", task, sandbox) == 1.0


def test_a_task_may_have_tests_of_all_kinds(sandbox):
    check = "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate(4) == 9\n"
    tests = [{"check": check, "entry_point": "f"}, {"call": "f(1)", "returns": "2"}, STDIN[0]]
    program = (
        "def f(x): return 2 * x\nif __name__ == '__main__':\n    try: print(f(int(input())))\n"
    )
    program += "    except EOFError: pass\n"
    assert score(program, code_task(*tests), sandbox) == 0.75


def test_a_check_defines_check():
    with pytest.raises(ValueError, match="of the name check"):
        check_reward(code_task({"check": "assert True", "entry_point": "f"}))
