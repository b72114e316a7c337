r"""Math equivalence: whether an answer is the reference, written in whatever way.

``notation`` gives both one notation. Then the first of these rules that can decides:

1. the same text, capital letters aside, is right; a reference of words takes nothing else;
2. an assignment (``x = 5``) stands for its value;
3. sets, tuples, lists, intervals, unions and matrices are compared element by element;
4. numbers are compared as they are written, units included (``numbers``, ``units``);
5. math-verify decides, in a process that can be killed (``grader``). Where it finds that a formula
   is a number, rule 4 applies to its value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from cleaner_env.rewards.grader import GRADER
from cleaner_env.rewards.notation import closing, plain, split
from cleaner_env.rewards.numbers import Number, read_number
from cleaner_env.rewards.units import split_unit

MAX_CHARACTERS = 2_000
"""Longer answers are not compared."""
_MAX_ITEMS = 64
_WORDS = re.compile(r"[^\W\d_][^\W\d_' -]*")
_SHORT_WORDS = {"yes", "no", "true", "false", "none", "odd", "even"}
_FUNCTIONS = re.compile(r"sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|inf|frac|mod|min|max|det")
_SAME_WORDS = {"true": "yes", "false": "no"}
_NAME = r"(?:\\?[A-Za-z]+(?:_\{?\w+\}?)?'?(?:\([^()]*\))?)"
_ASSIGNED = re.compile(rf"({_NAME}|\\text\{{[^{{}}]*\}})\s*=\s*([^=]*)")
_MEMBER = re.compile(rf"{_NAME}\s*\\in\b\s*(.*)")
_RELATION = re.compile(r"(\\le\b|\\ge\b|<|>)")
_DECIMAL_COMMA = re.compile(
    r"(?<![\d.,])(?:(\d{1,3}(?:\.\d{3})+),(\d+)|(\d+),(?!\d{3}(?!\d))(\d+)|(0),(\d+))(?![\d.,])"
)
_BASE_DIGITS = re.compile(r"[0-9A-Z]+\s*_\s*\{?\d+\}?")
_MATRIX = re.compile(r"\\begin\{([pbB]?|small)matrix\}(.*)\\end\{\1matrix\}")
_JOINTS = (",", ";", " and ", " or ", r"\cup")


class _TooSlow(Exception):
    """math-verify had no verdict in time, or its process ended."""


def equivalent(gold: str, answer: str) -> bool:
    """Whether an answer is mathematically the same as the reference."""
    if max(len(gold), len(answer)) > MAX_CHARACTERS:
        return bool(gold.strip()) and gold.strip() == answer.strip()
    try:
        gold, answer = plain(gold), plain(answer)
        return bool(gold and answer) and _Comparison(GRADER.seconds).same(gold, answer)
    except (_TooSlow, RecursionError):  # brackets within brackets, hundreds of them
        return False


def is_words(gold: str) -> bool:
    """Whether a reference is text: it has a word of four letters or more, or is one like yes."""
    text = unwrapped(gold)
    if not _WORDS.fullmatch(text) or _FUNCTIONS.search(text.lower()):
        return False
    longest = max(map(len, re.split(r"[\W_]+", text)))
    return longest >= 4 or text.lower() in _SHORT_WORDS


class _Comparison:
    """One comparison. All the elements of what it compares share its time."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def same(self, gold: str, answer: str) -> bool:
        """Whether an answer in plain TeX is the same as a reference, by the first rule that can."""
        gold, answer = gold.strip().removeprefix("+"), answer.strip().removeprefix("+")
        if same_text(gold) == same_text(answer):
            return True
        if not gold or not answer or is_words(gold):
            return False
        if "," not in gold:
            answer = _DECIMAL_COMMA.sub(_with_point, answer)
        for rule in (self._assigned, self._ranges, self._elements):
            verdict = rule(gold, answer)
            if verdict is not None:
                return verdict
        return self._quantities(gold, answer)

    def _assigned(self, gold: str, answer: str) -> bool | None:
        """``x = 5`` and ``n \\in \\{1, 2\\}`` are what stands behind the sign."""
        ours, theirs = _ASSIGNED.fullmatch(answer), _ASSIGNED.fullmatch(gold)
        if ours and theirs and same_text(ours[1]) == same_text(theirs[1]):
            return self.same(theirs[2], ours[2])
        if theirs and "=" not in answer:
            return self.same(theirs[2], answer)
        if "=" not in gold and (ours or len(split(answer, *_JOINTS)) == 1):
            *before, value = split(answer, "=")
            if before:
                return self.same(gold, value)
        members = _MEMBER.fullmatch(gold), _MEMBER.fullmatch(answer)
        if any(members):
            gold, answer = (
                member[1] if member else text
                for member, text in zip(members, (gold, answer), strict=True)
            )
            return self.same(gold, answer)
        return None

    def _ranges(self, gold: str, answer: str) -> bool | None:
        """Inequalities are intervals."""
        theirs, ours = _as_intervals(gold), _as_intervals(answer)
        if theirs and ours:
            return self.same(theirs[1], ours[1]) if theirs[0] == ours[0] else False
        if theirs and answer[0] in "([":
            return self.same(theirs[1], answer)
        return self.same(gold, ours[1]) if ours and gold[0] in "([" else None

    def _elements(self, gold: str, answer: str) -> bool | None:
        """Collections are compared element by element, sets in any order."""
        theirs, ours = _elements_of(gold), _elements_of(answer)
        if theirs is None or ours is None:
            if theirs and len(theirs.items) == 1:
                return self.same(theirs.items[0], answer)
            if ours and len(ours.items) == 1:
                return self.same(gold, ours.items[0])
            dotted = r"\ldots" in gold + answer and not _is_number(answer)
            return False if dotted or (ours and _is_number(gold)) else None
        if len(theirs.items) != len(ours.items) or len(theirs.items) > _MAX_ITEMS:
            return False
        if not theirs.fits(ours):
            return False
        if theirs.ordered:
            return all(map(self.same, theirs.items, ours.items))
        left = list(ours.items)
        for item in theirs.items:
            match = next((other for other in left if self.same(item, other)), None)
            if match is None:
                return False
            left.remove(match)
        return True

    def _quantities(self, gold: str, answer: str) -> bool:
        """Numbers with their units; formulas that are numbers; what math-verify says of others."""
        (theirs, their_unit), (ours, our_unit) = split_unit(gold), split_unit(answer)
        if their_unit.contradicts(our_unit):
            return False
        expected, given = read_number(theirs), read_number(ours)
        if expected is None or given is None:
            theirs = gold if their_unit.doubtful else theirs
            ours = answer if our_unit.doubtful else ours
            equal, values = self._ask(theirs, ours)
            expected = expected or _value(values[0])
            given = given or _value(values[1])
            if expected is None or given is None:
                return equal and their_unit.factor == our_unit.factor
        elif _BASE_DIGITS.fullmatch(theirs) and theirs.partition("_")[0].strip() == ours:
            return True
        expected, given = expected.scaled(their_unit.scale), given.scaled(our_unit.scale)
        if their_unit.known and our_unit.known:
            given = given.scaled(our_unit.factor / their_unit.factor)
        candidates = [given]
        if our_unit.percent != their_unit.percent:
            candidates.append(given.scaled(Fraction(1, 100) if our_unit.percent else Fraction(100)))
        return any(expected.takes(candidate) for candidate in candidates)

    def _ask(self, gold: str, answer: str) -> tuple[bool, tuple[str | None, str | None]]:
        reply = GRADER.ask(gold, answer, self._left) if self._left > 0 else None
        if reply is None:
            raise _TooSlow
        self._left -= reply.seconds
        return reply.equal, reply.values


@dataclass(frozen=True, slots=True)
class _Elements:
    """The elements of a set, a tuple and the like; ``kind`` is the brackets around them."""

    kind: str
    items: list[str]
    ordered: bool

    def fits(self, answer: _Elements) -> bool:
        """Whether the brackets of an answer may stand for the reference's own.

        Two elements in brackets may be an interval, whose brackets mean something. Otherwise, an
        answer may have any brackets, since a program prints lists and tuples of anything.
        """
        interval = len(self.items) == 2 and not self.items[0].startswith(("[", "("))
        brackets = {"()", "[]", "(]", "[)"}
        if {self.kind, answer.kind} & {"(]", "[)"} or (
            interval and {self.kind, answer.kind} <= brackets
        ):
            return self.kind == answer.kind
        return True


def _elements_of(text: str) -> _Elements | None:
    """The elements of a collection, as they are written; None if a text is none."""
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        rows = [f"[{row.replace('&', ',')}]" for row in matrix[2].split(r"\\") if row.strip()]
        return _Elements("[]", rows, ordered=True)
    if _is_number(text):
        return None
    kind, inside = "", text
    for first in ("(", "[", r"\{"):
        if text.startswith(first) and closing(text, len(first) - 1) == len(text) - 1:
            kind = text[len(first) - 1] + text[-1]
            inside = text[len(first) : -len(first)]
    items = []
    for item in filter(None, split(inside, *_JOINTS)):
        signs = ("+", "-") if item.count(r"\pm") == 1 else ("",)
        items += [item.replace(r"\pm", sign) for sign in signs]
    if kind in ("", "()") and len(items) < 2:
        return None
    ordered = kind not in ("", "{}") or r"\ldots" in items
    names = [named[1] for item in items if (named := _ASSIGNED.fullmatch(item))]
    if len(set(names)) == len(items):
        items, ordered = sorted(items), True
    return _Elements(kind, items, ordered)


def _as_intervals(text: str) -> tuple[str, str] | None:
    """The variable of an inequality and the interval or the union that it stands for."""
    found = [_as_interval(part) for part in split(text, r"\cup", " or ")]
    names = {interval[0] for interval in found if interval}
    if None in found or len(names) != 1:
        return None
    return names.pop(), r" \cup ".join(interval[1] for interval in found if interval)


def _as_interval(text: str) -> tuple[str, str] | None:
    parts = _RELATION.split(text)
    if len(parts) not in (3, 5) or "=" in text or "," in text:
        return None
    values, signs = [part.strip() for part in parts[::2]], parts[1::2]
    if len(values) == 2:  # read as low, variable, high
        values, signs = ["", *values] if _is_name(values[0]) else [*values, ""], signs * 2
    if not _is_name(values[1]) or ({"<", r"\le"} & set(signs) and {">", r"\ge"} & set(signs)):
        return None
    if signs[0] in (">", r"\ge"):
        values, signs = values[::-1], signs[::-1]
    left = "[" if values[0] and signs[0] in (r"\le", r"\ge") else "("
    right = "]" if values[2] and signs[1] in (r"\le", r"\ge") else ")"
    low, high = values[0] or r"-\infty", values[2] or r"\infty"
    return values[1], f"{left}{low},{high}{right}"


def _is_name(text: str) -> bool:
    return re.fullmatch(_NAME, text) is not None and text not in (r"\pi", r"\infty")


def _with_point(found: re.Match[str]) -> str:
    whole, part = filter(None, found.groups())
    return f"{whole.replace('.', '')}.{part}"


def _value(text: str | None) -> Number | None:
    """A value that math-verify found, a fraction or 50 digits of an irrational number."""
    if text is None:
        return None
    return Number(Fraction(text.removeprefix("~")), irrational=text.startswith("~"))


def _is_number(text: str) -> bool:
    return read_number(split_unit(text)[0]) is not None


def unwrapped(text: str) -> str:
    return re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip()


def same_text(text: str) -> str:
    """Text in lower case, without the spaces that do not stand between two words."""
    key = re.sub(r"\s*(\W)\s*", r"\1", " ".join(unwrapped(text).split())).lower()
    return _SAME_WORDS.get(key, key)
