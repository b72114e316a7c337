"""Answers: how a judged program is started in the sandbox, and how its values come out of it.

A value travels as JSON text. The functions `start`, `encode`, `answer` and `decode` are sent into
the sandbox as text, where they run in a namespace of their own; so they use no name of this module.
All that comes back is a claim of the program's. `decode` is the one place that checks it: it makes
plain data of it, or raises ValueError, whatever the text is.
"""

from __future__ import annotations

import inspect
import marshal
import re
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any


def start(text: str, file: str, namespace: dict[str, Any]) -> None:
    """Run source in a namespace; tracebacks show its lines. Its `from __future__` is its own."""
    import linecache

    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    exec(compile(text, file, "exec", 0, True), namespace)


def encode(value: Any, classes: Mapping[str, Any] = {}) -> str:
    """JSON of a list of nodes, which name each other by number: no depth or circle is too much.

    Objects of other types than `decode` lists are told by their fields when `classes`, a namespace,
    has a class of that name, and else by their repr, which stands for no value.
    """
    import itertools
    import json

    nodes: list[Any] = []
    numbers: dict[int, int] = {}
    waiting: list[Any] = []  # holds what it has numbered, so that no id is used twice

    def at(value: Any) -> Any:
        kind = type(value)
        if value is None or kind in (bool, float, str):
            return value
        if kind is int and value.bit_length() < 1000:
            return value
        if id(value) not in numbers or isinstance(value, (tuple, frozenset)):
            numbers[id(value)] = len(waiting)
            waiting.append(value)
        return [numbers[id(value)]]

    def node(value: Any) -> list[Any]:
        kind = type(value)
        name = f"{kind.__module__}.{kind.__name__}"
        if isinstance(value, int):
            return ["int", hex(value)]  # decimal digits are limited, and slow
        if isinstance(value, float):  # of a subclass, as numpy's are
            return ["same", float.__float__(value)]
        if isinstance(value, str):
            return ["same", str.__str__(value)]  # an enumeration's own says something else
        if isinstance(value, complex):
            return ["complex", value.real, value.imag]
        if isinstance(value, (bytes, bytearray)):
            return ["bytes", value.hex()]
        if isinstance(value, dict):
            return ["dict", *([at(key), at(item)] for key, item in dict.items(value))]
        many: Any
        for many in (list, tuple, set, frozenset):
            if isinstance(value, many):
                return [many.__name__, *map(at, many.__iter__(value))]
        if name == "collections.deque":
            return [name, *map(at, value)]
        if kind is range:
            return ["range", at(value.start), at(value.stop), at(value.step)]
        if name in ("datetime.datetime", "datetime.date", "datetime.time"):
            return [name, value.isoformat()]
        if name == "datetime.timedelta":
            return [name, value.days, value.seconds, value.microseconds]
        if name == "decimal.Decimal":
            return [name, str(value)]
        if name == "fractions.Fraction":
            return [name, at(value.numerator), at(value.denominator)]
        if kind in (type({}.keys()), type({}.values()), type({}.items())):
            return ["list", *map(at, value)]
        if hasattr(value, "__next__"):
            return ["iterator", *map(at, itertools.islice(value, 10_000))]
        if hasattr(value, "tolist") and type(value.tolist()) is not kind:
            if name != "numpy.ndarray" or not value.shape:
                return ["same", at(value.tolist())]
            shape = ",".join(map(str, value.shape))
            return ["array", value.dtype.str, shape, *map(at, value.ravel().tolist())]
        if isinstance(classes.get(kind.__name__), type) and hasattr(value, "__dict__"):
            return ["object", kind.__name__, at(vars(value))]
        return ["other", f"{value!r:.200}"]

    root = at(value)
    for value in waiting:  # grows meanwhile
        nodes.append(node(value))
    return json.dumps([root, nodes])


def answer(mark: str, text: str) -> None:
    """Write a text so that what threads and other processes write does not get into it."""
    import os

    os.set_blocking(1, True)
    data = f"{text}\t"
    for begin in range(0, len(data), 2048):  # the kernel writes as much as that in one piece
        os.write(1, f"\n{mark}{data[begin : begin + 2048]}\n".encode())


def decode(text: str, other: Callable[[str], Any], classes: Mapping[str, Any] | None = None) -> Any:
    """What `encode` was given, of exact types; subclasses are gone. Raises ValueError.

    The types are None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict,
    range, deque, Decimal, Fraction, those of datetime, and an iterator of at most 10,000 items.
    With `classes`, a namespace, also numpy's arrays, which are lists without it, and objects of the
    classes that it defines. `other` is called with the repr of anything else.
    """
    import collections
    import datetime
    import decimal
    import fractions
    import json
    import operator

    def number_of(text: str) -> decimal.Decimal:
        made = decimal.Decimal(text)
        if made.is_snan():
            raise ValueError("a signalling nan cannot be compared")
        return made

    def fields(name: str, values: dict[str, Any]) -> Any:
        if classes is None or classes[name].__module__ != classes["__name__"]:
            raise ValueError(f"no class {name!r:.50}")
        made = object.__new__(classes[name])
        filling.append((made.__dict__, values))
        return made

    def same(value: Any) -> Any:
        if isinstance(value, (tuple, frozenset)):
            raise ValueError("a tuple has no second name")
        return value

    def array(dtype: str, shape: str, *items: Any) -> Any:
        first, *lengths = map(int, shape.split(","))
        if classes is not None:
            import numpy

            return numpy.array(items, dtype).reshape(first, *lengths)
        for length in reversed(lengths):
            items = tuple([*items[at : at + length]] for at in range(0, len(items), length))
        return [*items]

    fixed: dict[str, Callable[..., Any]] = {
        "int": lambda text: int(text, 16),
        "same": same,
        "iterator": lambda *items: iter(items),
        "array": array,
        "complex": complex,
        "bytes": bytes.fromhex,
        "tuple": lambda *items: items,
        "frozenset": lambda *items: frozenset(items),
        "range": range,
        "datetime.datetime": datetime.datetime.fromisoformat,
        "datetime.date": datetime.date.fromisoformat,
        "datetime.time": datetime.time.fromisoformat,
        "datetime.timedelta": datetime.timedelta,
        "decimal.Decimal": number_of,
        # Of two integers: of a text such as 1e999999999 it would be made for hours.
        "fractions.Fraction": lambda over, under: fractions.Fraction(
            operator.index(over), operator.index(under)
        ),
        "object": fields,
        "other": lambda text: other(str(text)),
    }
    filled: dict[str, Callable[[], Any]] = {
        "list": list,
        "dict": dict,
        "set": set,
        "collections.deque": collections.deque,
    }
    made: dict[int, Any] = {}
    depths: dict[int, int] = {}
    filling: list[tuple[Any, Any]] = []

    def value(at: Any) -> Any:
        if type(at) is not list:
            return at
        (number,) = at
        # A tuple has one place: a few that name each other twice would be as long as the world.
        return made.pop(number) if number in depths else made[number]

    try:
        root, nodes = json.loads(text)
        numbered = [(number, kind, items) for number, (kind, *items) in enumerate(nodes)]
        for number, kind, _ in numbered:
            if kind in filled:
                made[number] = filled[kind]()
        for number, kind, items in reversed(numbered):  # what is in it comes after it
            if kind in ("tuple", "frozenset"):
                inner = [depths[at[0]] for at in items if type(at) is list and at[0] in depths]
                depth = 1 + max(inner, default=0)
                if depth > 200:
                    raise ValueError("tuples are too deep in each other")
                made[number] = fixed[kind](*map(value, items))
                depths[number] = depth
            elif kind not in filled:
                made[number] = fixed[kind](*map(value, items))
        for number, kind, items in numbered:
            if kind == "dict":
                made[number].update((value(key), value(item)) for key, item in items)
            elif kind == "set":
                made[number].update(map(value, items))
            elif kind in filled:
                made[number].extend(map(value, items))
        for namespace, values in filling:
            namespace.update(values)
        return value(root)
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError) as error:
        raise ValueError(f"not a value: {error!r:.200}") from error
    except RecursionError as error:
        raise ValueError("not a value: too deep") from error


HEADER = "from __future__ import annotations\nfrom typing import Any"  # of functions sent as text
START = inspect.getsource(start)
TOOLS = f"{inspect.getsource(encode)}\n{inspect.getsource(answer)}"
DECODE = inspect.getsource(decode)


def started(parts: Mapping[str, str], tail: str = "", tools: str = "") -> str:
    """A program that runs the sources, by file name, one after the other, and then the tail.

    The tail finds `encode`, `answer` and what the source `tools` defines in `_judge`. Integers may
    be written in any number of digits.
    """
    lines = [
        f"_judge = {{'texts': {dict(parts)!r}}}",
        f"exec({compiled(f'{START}{TOOLS}{tools}' if tail else START)}, _judge)",
        "__import__('sys').set_int_max_str_digits(0)",
        *(f"_judge['start'](_judge['texts'][{file!r}], {file!r}, globals())" for file in parts),
        tail,
    ]
    return "\n".join(lines)


@cache
def compiled(source: str) -> str:
    """An expression for the code of a source: to compile it for each program takes milliseconds."""
    source = f"{HEADER}\n{source}"
    code = b64encode(marshal.dumps(compile(source, "judge.py", "exec", 0, True))).decode()
    return (
        f"__import__('marshal').loads(__import__('binascii').a2b_base64({code!r})) "
        f"if __import__('sys').implementation.cache_tag == {sys.implementation.cache_tag!r} "
        f"else compile({source!r}, 'judge.py', 'exec', 0, True)"
    )


def answers(stdout: str, mark: str) -> list[str]:
    """The texts that were given to `answer`, as far as they are whole."""
    written = "".join(re.findall(f"^{mark}(.*)$", stdout, re.MULTILINE))
    return written.split("\t")[:-1]
