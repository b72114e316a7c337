"""Answers: plain data comes through, and whatever else a program says is a ValueError."""

from __future__ import annotations

import collections
import datetime
import enum
import json
import math
import random
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from sandbox import Sandbox
from sandbox.answers import answers, decode, encode
from sandbox.judge import CallTest, judge

SHARED = [0, 1]


def through(value: Any) -> Any:
    return decode(encode(value), str)


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, [-(10**5000)], 2.5, math.inf, 1 + 2j, "\u00e9\ud800\n", b"\x00\xff"),
        *([], (), {}, set(), frozenset(), [[SHARED, SHARED], (1, (2, ((), 3)))], {1, (2, 3)}),
        *({(1, 2): {"a": [1]}, None: 2}, frozenset({frozenset({1}), "a"}), range(3, 9, 2)),
        *(collections.deque([1, [2]]), Decimal("1.50"), Fraction(-1, 3)),
        *(datetime.datetime(2024, 2, 29, 1, 2, 3, 4, datetime.UTC), datetime.date(2024, 2, 29)),
        *(datetime.time(1, 2), datetime.timedelta(1, 2, 3)),
    ],
)
def test_plain_data_comes_through_with_its_type(value: Any) -> None:
    assert through(value) == value and type(through(value)) is type(value)


def test_of_a_subclass_the_plain_value_comes_through() -> None:
    class Sly(list[int]):
        __eq__ = lambda *_: True  # noqa: E731
        __iter__ = lambda self: iter([7])  # noqa: E731

    class Color(str, enum.Enum):  # noqa: UP042 (its str() is another text)
        RED = "red"

    pair = collections.namedtuple("pair", "a b")
    given = [Sly([1]), collections.Counter("aa"), pair(1, 2), {1: 2}.keys(), Color.RED]
    assert [(type(got), got) for got in through(given)] == [
        (list, [1]),
        (dict, {"a": 2}),
        (tuple, (1, 2)),
        (list, [1]),
        (str, "red"),
    ]


def test_depth_and_circles_come_through() -> None:
    deep: list[Any] = []
    for _ in range(20_000):
        deep = [deep]
    assert encode(through(deep)) == encode(deep)
    circle: list[Any] = [1]
    circle.append(circle)
    assert (got := through(circle))[1] is got


def test_arrays_are_lists_or_arrays() -> None:
    numpy = pytest.importorskip("numpy")
    given = numpy.arange(6.0).reshape(1, 3, 2)
    assert through([given, numpy.int8(3), numpy.bool_(True)]) == [given.tolist(), 3, True]
    assert type(through(numpy.float32(0.5))) is float
    got = decode(encode(given), str, {})
    assert (got == given).all() and got.dtype == given.dtype and got.shape == given.shape


def wide(kind: str, depth: int = 60) -> list[Any]:
    """A few nodes, each of which has the next one twice."""
    return [[0], [[kind, [n + 1], [n + 1]] for n in range(depth)] + [["tuple"]]]


def tall(kind: str, depth: int = 20_000) -> list[Any]:
    return [[0], [["set", [1]], *([kind, [n + 2]] for n in range(depth)), ["tuple"]]]


@pytest.mark.parametrize(
    "said",
    [
        *(None, 5, "x", [], {}, [1], [[0], 5], [[0], {}], [[0], "ab"], [[0], [[]]], [[0], [5]]),
        *([[1], [["list"]]], [["0"], [["list"]]], [[[0]], [["list"]]], [[0, 0], [["list"]]]),
        *(
            [[0], [["nothing"]]],
            [[0], [[["list"]]]],
            [[0], [["set", [0]]]],
            [[0], [["tuple", [0]]]],
        ),
        *([[0], [["dict", 5]]], [[0], [["dict", [[0], 1]]]], [[0], [["dict", [1, 2, 3]]]]),
        *([[0], [["int", 5]]], [[0], [["int", "9" * 99 + "z"]]], [[0], [["bytes", 5]]]),
        *([[0], [["complex", "z"]]], [[0], [["range", 1.5]]], [[0], [["datetime.date", "x"]]]),
        *([[0], [["datetime.timedelta", 1e300]]], [[0], [["decimal.Decimal", "sNaN"]]]),
        *(
            [[0], [["fractions.Fraction", "1e999999999", None]]],
            [[0], [["fractions.Fraction", 1, 0]]],
        ),
        *([[0], [["object", "int", {}]]], [[0], [["other"]]], [[0], [["array", "<i8", "x"]]]),
        *([[0], [["same", [1]], ["tuple"]]], wide("tuple"), wide("frozenset"), tall("tuple")),
        *(tall("frozenset"), tall("same")),
    ],
)
def test_anything_else_is_a_value_error(said: Any) -> None:
    for classes in (None, {"__name__": "x", "int": int}):
        with pytest.raises(ValueError):
            decode(json.dumps(said), str, classes)


@pytest.mark.parametrize("text", ["", "NaN", "[" * 20_000, "9" * 5000, '"\ud800"', "\x00", "{"])
def test_text_that_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        decode(text, str)


def test_random_changes_of_an_answer_raise_nothing_else() -> None:
    draw = random.Random(0)
    text = encode([{1: (2, "a")}, {3}, Decimal(1), range(3), 10**400, SHARED, 1j, [SHARED, b"b"]])
    read = 0
    for _ in range(3000):
        at, length = draw.randrange(len(text)), draw.randrange(4)
        changed = text[:at] + draw.choice(["", "[0]", "9", '"', "tuple", ",", "[", "1e999"])
        try:
            decode(changed + text[at + length :], str)
            read += 1
        except ValueError:
            continue
    assert 0 < read < 3000


def test_an_answer_is_read_only_when_it_is_whole() -> None:
    assert answers("\nM[1,\nnoise\nM2]\t\n\nMx\n", "M") == ["[1,2]"]
    assert answers("M[1]\n", "N") == []


@pytest.mark.parametrize(
    "said", ['[[0],[["other",5]]]', "[[0],[]]", "9" * 5000, "[" * 9000, '"6"', "NaN", "null"]
)
def test_a_program_that_speaks_for_the_judge_raises_nothing_here(box: Sandbox, said: str) -> None:
    code = f"import json; json.dumps = lambda v: {said!r}\ndef solve(a): return 6"
    (verdict,) = judge(box, code, [CallTest("solve", (3,), 6)], match="tolerant")
    assert not verdict.passed and verdict.why
