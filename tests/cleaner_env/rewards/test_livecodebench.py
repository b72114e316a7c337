"""LiveCodeBench's programs are judged as its published harness judges them."""

import json
import sys

import pytest

from cleaner_env.rewards import EncodedTests, score
from cleaner_env.rewards.livecodebench import same_lines, same_prediction
from cleaner_env.task import Task


def judged(sandbox, program, given, wanted, function=""):
    cases = json.dumps([{"input": given, "output": wanted}])
    tests = EncodedTests("row 1", function, cases, "[]")
    return score(program, Task("?", "", reward="code", entry={"tests": tests}), sandbox) == 1.0


STDIN = {  # program, and whether it passes for the input "3 4\n5\n" and the output "12\n5\n"
    "input": ("a, b = map(int, input().split())\nprint(a * b)\nprint(input())", True),
    "read": (
        "import sys\na, b, c = sys.stdin.read().split()\nprint(int(a) * int(b), c, sep='\\n')",
        True,
    ),
    "lines": ("import sys\nl = sys.stdin.readlines()\nprint(12)\nprint(l[1])", True),
    "iteration": ("import sys\nfor line in sys.stdin: last = line\nprint(12)\nprint(last)", True),
    "bytes": ("import sys\nprint(12, sys.stdin.buffer.read().split()[2].decode())", False),
    "buffer": ("import sys\nprint(12)\nprint(sys.stdin.buffer.read().split()[2].decode())", True),
    "open": ("print(12)\nprint(open(0).read().split()[2])", False),
    "an exit status": ("import sys\nprint('12\\n5')\nsys.exit(3)", True),
    "exit": ("print('12\\n5')\nexit(1)", True),
    "quit": ("print('12\\n5')\nquit()", False),
    "an exception": ("print('12\\n5')\n1 / 0", False),
    "a main block": ("def main(): print('12\\n5')\nif __name__ == '__main__':\n    main()", True),
    "a main block inside": ("if __name__ == '__main__':\n    print('12\\n5')\nx = 1", False),
    "a global": ("n = 12\ndef f():\n    global n\n    print(n)\nf()\nprint(5)", False),
    "a closure": ("n = 12\ndef f(): print(n)\nf()\nprint(5)", True),
    "the future": ("from __future__ import annotations\nprint('12\\n5')", True),
    "names of the prefix": ("print(comb(12, 1))\nprint(gcd(5, 10))", True),
    "deep recursion": ("def f(n): return n and 1 + f(n - 1)\nf(20000)\nprint('12\\n5')", True),
    "floats": ("print(12.0)\nprint(5.00)", True),
    "close floats": ("print(12.0000001)\nprint(5)", False),
    "other lines": ("print(12, 5)", False),
    "space": ("print(' 12  \\n5\\n\\n')", True),
    "what comes later": ("import atexit\natexit.register(print, 'bye')\nprint('12\\n5')", True),
    "a syntax error": ("print('12\\n5'", False),
    "nothing": ("", False),
}


@pytest.mark.parametrize(("program", "passes"), STDIN.values(), ids=STDIN)
def test_programs_that_read_stdin(sandbox, program, passes):
    assert judged(sandbox, program, "3 4\n5\n", "12\n5\n") == passes


CALLS = {  # the body of f(self, xs), what is expected, whether it passes
    "a tuple for a list": ("return tuple(xs)", "[1, 2]", True),
    "a tuple within": ("return [tuple(xs)]", "[[1, 2]]", False),
    "True for 1": ("return True", "1", True),
    "a float for an integer": ("return 3.0", "3", True),
    "close floats": ("return 0.1 + 0.2", "0.3", False),
    "a set": ("return set(xs)", "[1, 2]", False),
    "names of the prefix": ("return list(accumulate(xs))", "[1, 3]", True),
    "deep recursion": ("g = lambda n: n and 1 + g(n - 1)\n        return g(3000)", "3000", True),
    "deep recursion through a cache": (
        "g = lru_cache(None)(lambda n: n and 1 + g(n - 1))\n        return g(3000)",
        "3000",
        sys.version_info[:2] != (3, 12),  # which bounds recursion through C by itself
    ),
    "an array": ("import numpy\n        return numpy.array(xs)", "[1, 2]", False),
    "a number of numpy": ("import numpy\n        return numpy.int64(3)", "3", True),
    "always equal": (
        "class A(int):\n            __eq__ = lambda *_: True\n        return A(0)",
        "3",
        False,
    ),
    "an exit": ("import sys\n        sys.exit(0)", "3", False),
}


@pytest.mark.parametrize(("body", "wanted", "passes"), CALLS.values(), ids=CALLS)
def test_methods(sandbox, body, wanted, passes):
    program = (
        "from __future__ import annotations\n"
        f"class Solution:\n    def f(self, xs: List[int]):\n        {body}\n"
    )
    assert judged(sandbox, program, "[1, 2]", wanted, "f") == passes


def test_a_function_without_a_class(sandbox):
    assert judged(sandbox, "def f(xs, k): return sum(xs) + k", "[1, 2]\n3", "6", "f")


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("0.30", "0.3", True), ("0.3000001", "0.3", False), ("1e2 5", "100 5.0", True),
        ("0101", "101", True), ("1_0", "10", True), ("\u0661\u0660", "10", True),
        ("a 1.0", "a 1", False), ("a", "a", True), ("A", "a", False), ("nan", "nan", True),
        ("nan 1", "nan 1.0", False), ("snan 1", "snan 1.0", False), ("1\n2", "1 2", False),
        ("1\n\n2", "1\n2", False), ("\n1 \n2\n\n", "1\n 2", True), ("", "\n", True),
        ("1" * 5000, "1" * 4999 + "2", False), ("1e999999999999999999999", "7", False),
    ],
)  # fmt: skip
def test_lines_are_the_same_or_equal_as_decimals(printed, expected, same):
    assert same_lines(printed, expected) == same


def test_predictions_are_equal():
    assert same_prediction((1, [2]), [1, [2]]) and not same_prediction([(1, 2)], [[1, 2]])
