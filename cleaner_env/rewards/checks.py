"""Checks: functions of assertions, which judge a program without running in its process.

The assertions run in one execution and the program in another. In place of the program's function,
the check calls a stand-in, which returns what the function returned for each call. These values are
of plain types only, so that nothing a program defines or changes, such as an object's own ``==``,
affects the verdict. To find out which calls a check makes, it is first run with a stand-in whose
values can be used in every way. If calls depend on the values of earlier ones, this takes more than
one round.
"""

from __future__ import annotations

import inspect
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sandbox import Limits
from sandbox.answers import DECODE, answers, decode, encode, started
from sandbox.judge import Runner

Outcome = list[str]
"""How a call ended: "returned", with the value and, if that is None, the arguments after the call;
"raised", with the exception's class and message; or "ended", if the whole program did."""


def check_counts(
    runner: Runner, program: str, prefix: str, check: str, entry_point: str, limits: Limits
) -> tuple[int, int]:
    """How many of a check's assertions hold for a program, and how many there are.

    Raises:
        ValueError: the check gives the function something that cannot be sent to it.
        sandbox.SandboxError: the sandbox failed.
    """
    first = _first_calls(prefix, check, entry_point)
    calls, outcomes = list(first), list[Outcome]()
    left_s = 2 * limits.wall_s  # for a check that goes on and on with what it is told
    while left_s > 0:
        if calls:
            parts = {"prefix.py": prefix, "program.py": program}
            texts, seconds = _told(runner, parts, f"respond'](globals(), {calls!r})", limits)
            left_s -= seconds
            outcomes = [_outcome(text) for text in texts[: len(calls)]]
            outcomes += [["ended"]] * (len(calls) - len(outcomes))
        known = list(zip(calls, outcomes, strict=True))
        examined = f"examine'](globals(), {check!r}, {entry_point!r}, {known!r})"
        texts, seconds = _told(runner, {"prefix.py": prefix}, examined, limits)
        left_s -= seconds
        if not texts:
            break
        calls, passed, total, unsent = json.loads(texts[0])
        if unsent:
            raise ValueError(f"a check may call with plain data only, not with {unsent}")
        if not calls:
            return passed, total
        if not known:
            first[:] = calls
    return 0, 1


@lru_cache(maxsize=1024)
def _first_calls(prefix: str, check: str, entry_point: str) -> list[str]:
    """The calls that a check makes before it is told anything, when they are found out."""
    return []


def _told(
    runner: Runner, parts: Mapping[str, str], told: str, limits: Limits
) -> tuple[list[str], float]:
    """The texts that an iterator in the sandbox gives, as far as it comes, and the seconds."""
    mark = secrets.token_hex(8)
    tail = f"for _text in _judge['{told}: _judge['answer']({mark!r}, _text)"
    source = started(parts, f"{tail}\n__import__('os')._exit(0)", _TOOLS)
    result = runner.run(source, limits=limits)
    return answers(result.stdout, mark), result.wall_s


def _outcome(text: str) -> Outcome:
    """A reply, if it has the form of one, whatever the program says."""
    try:
        outcome = json.loads(text)
    except (ValueError, RecursionError):
        return ["ended"]
    texts = isinstance(outcome, list) and all(isinstance(part, str) for part in outcome)
    good = texts and len(outcome) == 3 and outcome[0] in ("returned", "raised")
    return outcome if good else ["ended"]


# What runs in the sandbox, beside `encode` and `decode`.


def respond(namespace: dict[str, Any], calls: Sequence[str]) -> Iterator[str]:
    """With the program: make the calls, and tell of each how it ended."""
    import json

    functions: dict[str, Any] = {}
    for call in calls:
        name, arguments, keywords = decode(call, str, namespace)
        try:
            if name not in functions:
                functions[name] = eval(name, namespace)
            value = functions[name](*arguments, **keywords)
        except Exception as error:
            outcome = ["raised", type(error).__name__, str(error)]
        else:
            after = encode([arguments, keywords], namespace) if value is None else ""
            outcome = ["returned", encode(value, namespace), after]
        yield json.dumps(outcome)


def examine(
    namespace: dict[str, Any], check: str, entry_point: str, known: Sequence[tuple[str, Outcome]]
) -> Iterator[str]:
    """Without the program: run the check, and tell which calls it makes or what has held."""
    import ast
    import builtins
    import json
    import random
    import sys

    calls: list[str] = []
    verdicts: list[bool] = []
    unsent = ""
    asks = lost = ended = False

    guesses = 1000 + len(known)  # a loop that an unknown value should end goes on for ever

    class Ended(BaseException):
        """The program was over before it came to this call, or there is no point in guessing on."""

    def guess(value: Any) -> Any:
        nonlocal guesses
        guesses -= 1
        if guesses < 0:
            raise Ended
        return value

    class Anything:
        """Stands for a value that is not known yet: there is nothing that it cannot do."""

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return guess(self)

        def __iter__(self) -> Any:
            return guess(iter(()))

    anything = Anything()
    for methods, value in (
        ("add sub mul truediv floordiv mod pow matmul and or xor lshift rshift divmod", anything),
        ("radd rsub rmul rtruediv rfloordiv rmod rpow neg pos abs invert round", anything),
        ("call getitem setitem delitem enter exit", anything),
        ("lt le gt ge eq ne contains bool", True),
        ("index int len hash", 1),
        ("float", 1.0),
    ):
        for method in methods.split():
            setattr(Anything, f"__{method}__", lambda *_, value=value, **__: guess(value))

    def stand_in(name: str) -> Callable[..., Any]:
        def function(*arguments: Any, **keywords: Any) -> Any:
            nonlocal asks, ended, lost, unsent
            if ended:
                raise Ended
            call = encode([name, arguments, keywords], namespace)
            if '["other", ' in call and not lost:
                unsent = "" if asks else f"{(arguments, keywords)!r:.200}"
                asks = lost = True
            if lost:  # what it is called with from here on depends on what is not known
                return guess(anything)
            calls.append(call)
            if asks or len(calls) > len(known) or known[len(calls) - 1][0] != call:
                asks = True
                return guess(anything)
            kind, *told = known[len(calls) - 1][1]
            if kind == "ended":
                ended = True
                raise Ended
            if kind == "raised":
                error = getattr(builtins, told[0], namespace.get(told[0]))
                if isinstance(error, type) and issubclass(error, Exception):
                    if error is StopIteration:  # it would end a loop of the check, as if it held
                        error = RuntimeError
                    raise error(told[1])
                raise Exception(": ".join(told))
            value = decode(told[0], refuse, namespace)
            if value is None:
                after, named = decode(told[1], refuse, namespace)
                for old, new in zip(arguments, after, strict=True):
                    put_back(old, new)
                for key, new in named.items():
                    put_back(keywords.get(key), new)
            return value

        return function

    def refuse(text: str) -> Any:
        raise TypeError(f"{text} is not plain data")

    def put_back(old: Any, new: Any) -> None:
        """What a function that returns nothing has made of an argument."""
        if type(old) is not type(new):
            return
        if isinstance(old, list):
            old[:] = new
        elif isinstance(old, dict | set):
            old.clear()
            old.update(new)
        elif hasattr(old, "__dict__"):
            vars(old).clear()
            vars(old).update(vars(new))
        elif type(old).__name__ == "ndarray":
            old[...] = new

    class Names(dict[str, Any]):
        """What the check's source sees; a name that nobody knows is one of the program's."""

        def __missing__(self, name: str) -> Any:
            if hasattr(builtins, name):
                raise KeyError(name)
            return stand_in(name)

    def asserted(test: Callable[[], Any]) -> None:
        try:
            holds = bool(test())
        except (Exception, Ended):
            holds = False
        if not asks:
            verdicts.append(holds)

    class Counted(ast.NodeTransformer):
        """A failed assertion does not keep the others from being looked at."""

        def visit_Assert(self, node: ast.Assert) -> ast.AST:
            if isinstance(node.test, ast.Constant) and node.test.value:
                return ast.copy_location(ast.Pass(), node)
            test = ast.Lambda(ast.arguments([], [], None, [], [], None, []), node.test)
            called = ast.Call(ast.Name("_asserted", ast.Load()), [test], [])
            return ast.copy_location(ast.Expr(called), node)

    random.seed(0)  # the same calls in every round
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    candidate = stand_in(entry_point)
    names = Names(namespace, _asserted=asserted, **{entry_point: candidate})
    tree = ast.fix_missing_locations(Counted().visit(ast.parse(check)))
    finished = True
    try:
        exec(compile(tree, "check.py", "exec", 0, True), names)
        names["check"](candidate)
    except (Exception, Ended):
        finished = False
    if not finished or not verdicts:
        verdicts.append(finished)
    yield json.dumps([calls if asks else [], sum(verdicts), len(verdicts), unsent])


_TOOLS = "\n".join([DECODE, inspect.getsource(respond), inspect.getsource(examine)])
