"""Checks: assertions about a program that they never meet, and that never meets them."""

import pytest

from cleaner_env.rewards import score
from cleaner_env.task import Task

NEAR = """
def check(candidate):
    assert abs(candidate(2) - 4.5) < 1e-6
    assert candidate(3) > 7
    assert candidate([1, 2]) != [0]
"""
IN_MODULES = """
import math
def check(candidate):
    assert math.isclose(candidate(2), 4.5)
    assert all(x > 0 for x in candidate([3, 4]))
    assert sorted(candidate([2, 1])) == [7, 8]
"""


def task(check, prefix="", entry_point="f", **more):
    test = {"check": check, "entry_point": entry_point}
    return Task("?", "", reward="code", entry={"tests": [test], "prefix": prefix, **more})


RIGHT = "def f(x): return {2: 4.5, 3: 8}[x] if isinstance(x, int) else [8, 7]"
TRUE = """
class A{base}:
    for name in "eq ne lt le gt ge sub rsub add radd abs getitem iter contains".split():
        locals()[f"__{{name}}__"] = lambda self, *others: self
    __bool__ = lambda self: True
    __hash__ = lambda self: 0
    __float__ = lambda self: 4.5
    def __next__(self): return self
def f(x): return A({value})
"""
ATTACKS = {
    "an object that is always true": TRUE.format(base="", value=""),
    "an int": TRUE.format(base="(int)", value="0"),
    "a float": TRUE.format(base="(float)", value="0"),
    "a str": TRUE.format(base="(str)", value="'no'"),
    "a list": TRUE.format(base="(list)", value="[-1]"),
    "a dict": TRUE.format(base="(dict)", value=""),
    "a tuple": TRUE.format(base="(tuple)", value=""),
    "an exception": TRUE.format(base="(Exception)", value=""),
    "a class": "class M(type):\n    __lt__ = __gt__ = __sub__ = __ne__ = lambda *_: 0\n"
    "def f(x): return M('M', (), {})",
    "builtins": "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.all = lambda x: True\n"
    "builtins.sorted = lambda x: [7, 8]\nbuiltins.isinstance = lambda *_: True\n"
    "def f(x): return 0",
    "a module": "import math\nmath.isclose = lambda *_: True\ndef f(x): return 0",
    "modules": "import sys, types\nm = types.ModuleType('math')\nm.isclose = lambda *_: True\n"
    "sys.modules['math'] = m\ndef f(x): return 0",
    "encoding": "import json\njson.dumps = lambda v: '[[0],[[\"other\",5]]]'\ndef f(x): return 0",
    "a forged answer": "import sys\ndef f(x):\n    g = sys._getframe()\n"
    "    while g.f_back: g = g.f_back\n    for c in g.f_code.co_consts:\n"
    "        print(f'\\n{c}[true]\\t')\n    return 0",
    "no end": "import itertools\ndef f(x): return itertools.repeat(-1)",
    "all attributes": "class A:\n    __getattr__ = lambda s, n: s\n"
    "    __call__ = lambda s, *a: s\n"
    "def f(x): return A()",
    "its end": "import os\ndef f(x): print('passed'); os._exit(0)",
    "an exit": "import sys\ndef f(x): sys.exit(0)",
    "its own assertions": "def check(candidate): pass\ndef f(x): return 0",
    "tracing": "import sys\ndef t(*a): return t\nsys.settrace(t)\nsys.setprofile(t)\n"
    "def f(x): return 0",
}


@pytest.mark.parametrize("check", [NEAR, IN_MODULES], ids=["near", "modules"])
@pytest.mark.parametrize("program", ATTACKS.values(), ids=ATTACKS)
def test_nothing_but_right_values_makes_a_check_hold(sandbox, program, check):
    assert score(RIGHT, task(check), sandbox) == 1.0
    assert score(program, task(check), sandbox) < 1.0


def test_a_program_that_ends_a_loop_of_the_check_does_not_hold(sandbox):
    loop = "def check(candidate):\n    assert all(map(lambda x: candidate(x) == 8, range(3)))"
    assert score("def f(x): return 8", task(loop), sandbox) == 1.0
    assert score("def f(x): raise StopIteration", task(loop), sandbox) == 0.0


def test_a_program_finds_no_assertions_in_its_process(sandbox):
    looks = """
import gc, sys
def f(x):
    frame, text = sys._getframe(), ""
    while frame:
        text += repr(frame.f_globals) + repr(frame.f_locals) + repr(frame.f_code.co_consts)
        frame = frame.f_back
    return "".join(["73", "31"]) in text + repr(gc.get_objects())
"""
    check = "def check(candidate):\n    assert candidate(1) is not (1 != 7331)\n"
    assert score(looks, task(check), sandbox) == 1.0


def test_a_program_cannot_change_what_it_is_compared_with(sandbox):
    check = "def check(candidate):\n    xs = [3, 1]\n    assert candidate(xs) == sorted(xs)\n"
    assert score("def f(xs): xs.clear(); return []", task(check), sandbox) == 0.0
    assert score("def f(xs): return sorted(xs)", task(check), sandbox) == 1.0


NODE = """
class Node:
    def __init__(self, value, next=None): self.value, self.next = value, next
    def __eq__(self, other): return values(self) == values(other)
def nodes(values): return Node(values[0], nodes(values[1:])) if values else None
def values(node):
    out = []
    while node: out.append(node.value); node = node.next
    return out
"""
LEGITIMATE = {
    "tuples": ("assert candidate(2) == (2, [2])", "def f(x): return x, [x]", ""),
    "a named tuple": (
        "assert candidate(2) == (2, 3)",
        "from collections import namedtuple as n\nN = n('N', 'a b')\ndef f(x): return N(x, x + 1)",
        "",
    ),
    "a generator": ("assert list(candidate(3)) == [0, 1, 2]", "def f(x): yield from range(x)", ""),
    "sets": ("assert candidate(2) == {2, (1, 2)}", "def f(x): return {x, (1, x)}", ""),
    "a counter": (
        "assert candidate('aa')['a'] == 2",
        "from collections import Counter as f",
        "",
    ),
    "bytes": ("assert candidate('a') == b'a'", "def f(x): return x.encode()", ""),
    "complex": ("assert candidate(2) == 2j", "def f(x): return x * 1j", ""),
    "decimals": (
        "assert candidate('1.10') == D('1.1')",
        "import decimal\ndef f(x): return decimal.Decimal(x)",
        "from decimal import Decimal as D",
    ),
    "fractions": (
        "assert candidate(3) == F(1, 3)",
        "import fractions\ndef f(x): return fractions.Fraction(1, x)",
        "from fractions import Fraction as F",
    ),
    "dates": (
        "assert candidate(d.date(2024, 1, 31)) == d.date(2024, 2, 1)",
        "import datetime\ndef f(x): return x + datetime.timedelta(1)",
        "import datetime as d",
    ),
    "a deque": (
        "assert candidate([1]) == deque([1, 2])",
        "import collections\ndef f(x): return collections.deque([*x, 2])",
        "from collections import deque",
    ),
    "arrays": (
        "assert (candidate(np.arange(4).reshape(2, 2)) == np.array([[0, 2], [4, 6]])).all()",
        "def f(x): return x * 2",
        "import numpy as np",
    ),
    "a number of numpy": (
        "assert candidate(2) == 3",
        "import numpy\nf = numpy.int64(1).__add__",
        "",
    ),
    "a long integer": ("assert candidate(5000) == 10 ** 5000", "def f(x): return 10 ** x", ""),
    "an exception": (
        "try:\n        candidate(0)\n        assert False\n"
        "    except ZeroDivisionError:\n        pass\n"
        "    assert candidate(1) == 1",
        "def f(x): return 1 / x",
        "",
    ),
    "an error of the prefix": (
        "try:\n        candidate(0)\n        assert False\n    except Bad as bad:\n"
        "        assert str(bad) == 'no'",
        "def f(x): raise Bad('no')",
        "class Bad(Exception): pass",
    ),
    "a list in place": (
        "xs = [3, 1]\n    candidate(xs)\n    assert xs == [1, 3]",
        "def f(xs): xs.sort()",
        "",
    ),
    "calls that depend on calls": (
        "x = 0\n    for _ in range(5): x = candidate(x)\n    assert x == 5\n"
        "    assert candidate(candidate(7)) == 9",
        "def f(x): return x + 1",
        "",
    ),
    "random arguments": (
        "import random\n    for _ in range(20):\n        x = random.random()\n"
        "        assert candidate(x) == x * 2",
        "import random\nrandom.seed(5)\ndef f(x): random.random(); return x * 2",
        "",
    ),
    "memory of earlier calls": (
        "assert [candidate(1) for _ in range(3)] == [1, 2, 3]",
        "seen = []\ndef f(x): seen.append(x); return len(seen)",
        "",
    ),
    "objects of the prefix": (
        "assert candidate(nodes([1, 2, 3])) == nodes([3, 2, 1])",
        "def f(node): return nodes(values(node)[::-1])",
        NODE,
    ),
    "a long list of nodes": (
        "assert len(values(candidate(nodes(range(900))))) == 900",
        "def f(node): return node",
        NODE,
    ),
    "a loop until a value": (
        "n = 0\n    while candidate(n) is True: n += 1\n    assert n == 3",
        "def f(x): return x < 3",
        "",
    ),
    "a second function": (
        "assert candidate(2) == g(2)",
        "def f(x): return x\ndef g(x): return x",
        "",
    ),
    "its own name": ("assert f(2) == 2", "def f(x): return x", ""),
    "a check of its own kind": (
        "if candidate(2) != 2: raise ValueError",
        "def f(x): return x",
        "",
    ),
    "the future": (
        "assert candidate(2) == 2",
        "from __future__ import annotations\ndef f(x: nothing): return x",
        "import math",
    ),
}


@pytest.mark.parametrize(("body", "program", "prefix"), LEGITIMATE.values(), ids=LEGITIMATE)
def test_what_checks_may_do(sandbox, body, program, prefix):
    check = task(f"def check(candidate):\n    {body}\n", prefix)
    assert score(program, check, sandbox) == 1.0
    assert score("def f(x): return 'nonsense'", check, sandbox) < 1.0


def test_an_object_of_the_prefix_has_the_operators_of_the_prefix(sandbox):
    check = "def check(candidate):\n    assert candidate(nodes([1, 2])) == nodes([2, 1])\n"
    forged = "class Node:\n    __eq__ = lambda *_: True\ndef f(node): return Node()"
    assert score(forged, task(check, NODE), sandbox) == 0.0


def test_a_check_that_a_program_keeps_going_ends(sandbox):
    check = "def check(candidate):\n    n = 0\n    while candidate(n): n += 1\n    assert n == 3\n"
    assert score("def f(x): return x < 3", task(check), sandbox) == 1.0
    assert score("def f(x): return True", task(check, seconds=0.5), sandbox) == 0.0


def test_a_method_of_solution(sandbox):
    check = "def check(candidate):\n    assert candidate(xs=[1, 2]) == 3\n"
    method = task(check, entry_point="Solution().f")
    assert score("class Solution:\n    def f(self, xs): return sum(xs)", method, sandbox) == 1.0
    assert score("def f(xs): return sum(xs)", method, sandbox) == 1.0


def test_the_score_is_the_share_of_assertions_that_hold(sandbox):
    check = "def check(candidate):\n    for i in range(4):\n        assert candidate(i) == i\n"
    assert score("def f(x): return min(x, 2)", task(check), sandbox) == 0.75
    assert score("def f(x): return x if x < 1 else 1 / 0", task(check), sandbox) == 0.25
    # What came before a program's end counts.
    stops = "import time\ndef f(x): return x if x < 2 else time.sleep(60)"
    assert score(stops, task(check, seconds=1), sandbox) == 0.5


def test_a_check_with_an_argument_that_cannot_be_sent_says_so(sandbox):
    check = "def check(candidate):\n    assert candidate(lambda x: x) == 1\n"
    with pytest.raises(ValueError, match=r"plain data only, not with .*lambda"):
        score("def f(x): return 1", task(check), sandbox)
