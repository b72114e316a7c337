"""LiveCodeBench's own judgement: how its published harness runs a program and compares results.

We follow the harness in everything that decides a verdict, oddities included. A program for stdin
runs as the body of a function, with a recursion limit of 50,000 and its input in memory. Its exit
status does not count, and it must print the same lines, or lines of numbers that are equal as
decimals. The value of a method must equal the expected one, where a tuple may equal a list. Three
things differ: each test has a process of its own, so that a method's second call never meets what
its first has left; ``from __future__`` is not a syntax error; and the sandbox denies what the
harness can only disable by hand.

Source: lcb_runner/evaluation/testing_util.py in github.com/LiveCodeBench/LiveCodeBench (MIT).
"""

from __future__ import annotations

import inspect
from decimal import Decimal
from typing import Any

from sandbox.answers import HEADER

_STAR = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random"),
    *("statistics", "itertools", "functools", "operator", "io", "sys", "json"),
)
CONTEST_IMPORTS = "\n".join(
    [f"from {module} import *" for module in (*_STAR, "builtins", "typing")]
    + [f"import {module}" for module in _STAR]
    + ["sys.setrecursionlimit(50000)\n"]
)
"""What the harness, like contest sites, puts before a solution."""


def same_lines(printed: str, expected: str) -> bool:
    """Whether a program printed what it should, by the harness's rules."""
    lines, wanted = ([line.strip() for line in t.strip().split("\n")] for t in (printed, expected))
    return len(lines) == len(wanted) and all(
        a == b or _same_decimals(a, b) for a, b in zip(lines, wanted, strict=True)
    )


def _same_decimals(line: str, wanted: str) -> bool:
    try:
        return [Decimal(word) for word in line.split()] == [Decimal(w) for w in wanted.split()]
    except ArithmeticError:  # a word that is no number, or cannot be compared
        return False


def same_prediction(returned: Any, expected: Any) -> bool:
    """Whether a method returned what it should, by the harness's rules."""
    return bool((list(returned) if isinstance(returned, tuple) else returned) == expected)


def harness(program: str) -> str:
    """Source that defines ``printed(stdin)`` and ``returned(method, arguments)`` for a program."""
    sources = [inspect.getsource(function) for function in (loaded, printed, returned)]
    return "\n\n".join([HEADER, *sources, f"PROGRAM, IMPORTS = {program!r}, {CONTEST_IMPORTS!r}"])


# What runs in the sandbox.

PROGRAM = IMPORTS = ""  # set by ``harness``


def loaded(future: str, source: str) -> Any:
    import builtins
    import sys
    import types

    sys.set_int_max_str_digits(50_000)
    setattr(builtins, "quit", None)  # noqa: B010 (known to be callable)
    module = types.ModuleType("tmp_sol")
    exec(IMPORTS, module.__dict__)
    exec(compile(f"{future}\n{source}", "solution.py", "exec", 0, True), module.__dict__)
    return module.Solution() if "class Solution" in source else module


def printed(stdin: str) -> str:
    """What the program prints."""
    import ast
    import io
    import sys

    future, source = "", PROGRAM
    try:
        body = ast.parse(source).body
        if isinstance(body[-1], ast.If) and ast.unparse(body[-1].test) == "__name__ == '__main__'":
            body[-1:] = body[-1].body
        imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
        rest = [node for node in body if not isinstance(node, ast.Import | ast.ImportFrom)]
        futures = [node for node in imports if getattr(node, "module", "") == "__future__"]
        nothing = ast.arguments([], [], None, [], [], None, [])
        function = ast.FunctionDef("wrapped_function", nothing, rest, [], lineno=-1)
        future = "\n".join(map(ast.unparse, futures))
        others = [node for node in imports if node not in futures]
        source = "\n".join(map(ast.unparse, [*others, function]))
    except Exception:
        pass  # running it says what is wrong
    lines = iter(stdin.split("\n"))

    class Buffer:
        def read(self, *_: Any) -> bytes:
            return stdin.encode()

        def readline(self, *_: Any) -> bytes:
            return stdin.encode().split(b"\n")[0] + b"\n"

    given: Any = io.StringIO(stdin)
    given.buffer = Buffer()
    given.read = lambda *_: stdin
    given.readline = lambda *_: next(lines)
    given.readlines = lambda *_: stdin.split("\n")
    output = io.StringIO()
    run = loaded(future, source).wrapped_function
    kept = sys.stdin, sys.stdout
    sys.stdin, sys.stdout = given, output
    try:
        run()
    except SystemExit:
        pass
    finally:
        sys.stdin, sys.stdout = kept
    return output.getvalue()


def returned(method: str, arguments: list[Any]) -> Any:
    """What the method, or the function of that name, returns."""
    value = getattr(loaded("", PROGRAM), method)(*arguments)
    if value == value:  # raises for an array, as where the harness compares it
        return value
    return value
