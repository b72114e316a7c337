r"""Math equivalence: whether an answer is the reference, in whatever way it is written.

``notation`` first writes both in plain TeX. After that, the first of these rules that can decides:

1. The same text is right, apart from capital letters. A reference in words accepts nothing else.
2. A name is left out: ``x = 5`` is 5.
3. An inequality is an interval.
4. Sets, tuples, lists, unions and matrices are compared element by element (``elements``).
5. Numbers are compared as they are written (``numbers``), with their ``units``.
6. math-verify reads the rest, in a process that can be killed (``grader``). If it finds that a
   formula is a real number, rule 5 applies to the value; otherwise its verdict stands.
"""

from __future__ import annotations

import re
from fractions import Fraction

from cleaner_env.rewards.elements import (
    ASSIGNMENT,
    JOINTS,
    NAME,
    as_intervals,
    is_quantity,
    read_elements,
)
from cleaner_env.rewards.grader import GRADER
from cleaner_env.rewards.notation import NAMES, plain, split
from cleaner_env.rewards.numbers import IN_BASE, Number, read_number
from cleaner_env.rewards.units import split_unit

MAX_CHARACTERS = 2_000
"""Longer answers are right only if they are the reference's own text."""
_MAX_ELEMENTS = 64
_WORDS = re.compile(r"[^\W\d_][^\W\d_' -]*")
_SHORT_WORDS = {"yes", "no", "true", "false", "none", "odd", "even"}
_SYNONYMS = {"true": "yes", "false": "no"}
_FUNCTIONS = re.compile("|".join([*NAMES, "sqrt", "pi", "inf", "frac", "mod", "det"]))
_MEMBER = re.compile(rf"{NAME}\s*\\in\b\s*(.*)")
_DECIMAL_COMMA = re.compile(
    r"(?<![\d.,])(?:(\d{1,3}(?:\.\d{3})+),(\d+)|(\d+),(?!\d{3}(?!\d))(\d+)|(0),(\d+))(?![\d.,])"
)
_DROPPED = re.compile(r"\\ldots|\d\s*_")
"""What math-verify leaves out: dots, and the base of a number."""


class _OutOfTime(Exception):
    """math-verify did not answer in time, or its process died."""


def equivalent(gold: str, answer: str) -> bool:
    """Whether an answer is mathematically the same as the reference."""
    if max(len(gold), len(answer)) > MAX_CHARACTERS:
        return gold.strip() == answer.strip()
    try:
        gold, answer = plain(gold), plain(answer)
        return bool(gold and answer) and _Comparison(GRADER.seconds).same(gold, answer)
    except (_OutOfTime, RecursionError):  # hundreds of brackets, one within the other
        return False


class _Comparison:
    """One comparison, whose elements share its time."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def same(self, gold: str, answer: str) -> bool:
        """Whether an answer is the same as a reference, both in plain TeX."""
        gold, answer = gold.strip().lstrip("+ "), answer.strip().lstrip("+ ")
        if text_key(gold) == text_key(answer):
            return True
        if not gold or not answer or _is_words(gold):
            return False
        if "," in answer and is_quantity(gold):
            with_point = _DECIMAL_COMMA.sub(_with_point, answer)
            answer = with_point if is_quantity(with_point) else answer
        for rule in (self._unnamed, self._ranges, self._elements):
            verdict = rule(gold, answer)
            if verdict is not None:
                return verdict
        return self._quantities(gold, answer)

    def _unnamed(self, gold: str, answer: str) -> bool | None:
        r"""``x = 5`` and ``n \in \{1, 2\}`` without the name."""
        theirs, ours = ASSIGNMENT.fullmatch(gold), ASSIGNMENT.fullmatch(answer)
        if theirs and ours and text_key(theirs[1]) == text_key(ours[1]):
            return self.same(theirs[2], ours[2])
        if theirs and "=" not in answer:
            return self.same(theirs[2], answer)
        if "=" not in gold and (ours or len(split(answer, *JOINTS)) == 1):
            *names, value = split(answer, "=")
            if names:
                return self.same(gold, value)
        theirs, ours = _MEMBER.fullmatch(gold), _MEMBER.fullmatch(answer)
        if theirs or ours:
            return self.same(theirs[1] if theirs else gold, ours[1] if ours else answer)
        return None

    def _ranges(self, gold: str, answer: str) -> bool | None:
        """Inequalities as intervals."""
        theirs, ours = as_intervals(gold), as_intervals(answer)
        if theirs and ours:
            return theirs[0] == ours[0] and self.same(theirs[1], ours[1])
        if theirs and answer[0] in "([":
            return self.same(theirs[1], answer)
        return self.same(gold, ours[1]) if ours and gold[0] in "([" else None

    def _elements(self, gold: str, answer: str) -> bool | None:
        """Element by element, in order unless it is a set."""
        theirs, ours = read_elements(gold), read_elements(answer)
        if theirs is None or ours is None:
            if theirs and len(theirs.items) == 1:
                return self.same(theirs.items[0], answer)
            if ours and len(ours.items) == 1:
                return self.same(gold, ours.items[0])
            dropped = _DROPPED.search(f"{gold};{answer}") and not is_quantity(answer)
            return False if dropped or (ours and is_quantity(gold)) else None
        if len(theirs.items) != len(ours.items) or len(theirs.items) > _MAX_ELEMENTS:
            return False
        if not theirs.fits(ours):
            return False
        left = list(ours.items)
        for item in theirs.items:
            candidates = left[:1] if theirs.ordered else left
            match = next((other for other in candidates if self.same(item, other)), None)
            if match is None:
                return False
            left.remove(match)
        return True

    def _quantities(self, gold: str, answer: str) -> bool:
        """Numbers with units, formulas that are numbers, and whatever math-verify can read."""
        (theirs, their_unit), (ours, our_unit) = split_unit(gold), split_unit(answer)
        if their_unit.contradicts(our_unit):
            return False
        expected, given = read_number(theirs), read_number(ours)
        if expected is None or given is None:
            theirs = gold if their_unit.doubtful else theirs
            ours = answer if our_unit.doubtful else ours
            equal, values = self._ask(theirs, ours)
            expected, given = expected or _value(values[0]), given or _value(values[1])
            if expected is None or given is None:
                return equal and their_unit.factor == our_unit.factor
        elif (digits := IN_BASE.fullmatch(theirs)) and digits[1] == ours:
            return True
        expected, given = expected.scaled(their_unit.scale), given.scaled(our_unit.scale)
        if their_unit.known and our_unit.known:
            given = given.scaled(our_unit.factor / their_unit.factor)
        candidates = [given]
        if our_unit.percent != their_unit.percent:
            candidates.append(given.scaled(Fraction(1, 100) if our_unit.percent else Fraction(100)))
        return any(expected.accepts(candidate) for candidate in candidates)

    def _ask(self, gold: str, answer: str) -> tuple[bool, tuple[str | None, str | None]]:
        """math-verify's verdict, and the values of the two if they are real numbers."""
        reply = GRADER.ask(gold, answer, self._left) if self._left > 0 else None
        if reply is None:
            raise _OutOfTime
        self._left -= reply.seconds
        return reply.equal, reply.values


def text_key(text: str) -> str:
    """The same for texts that differ in capital letters, or in spaces not between two words."""
    key = re.sub(r"\s*(\W)\s*", r"\1", " ".join(unwrapped(text).split())).lower()
    return _SYNONYMS.get(key, key)


def unwrapped(text: str) -> str:
    r"""A text without ``\text{}`` around its words."""
    return re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip()


def _is_words(gold: str) -> bool:
    """Whether a reference is text: math-verify reads letters as factors, and ``on`` as ``no``."""
    text = unwrapped(gold)
    if not _WORDS.fullmatch(text) or _FUNCTIONS.search(text.lower()):
        return False
    longest = max(map(len, re.split(r"[\W_]+", text)))
    return longest >= 4 or text.lower() in _SHORT_WORDS


def _with_point(found: re.Match[str]) -> str:
    whole, part = filter(None, found.groups())
    return f"{whole.replace('.', '')}.{part}"


def _value(text: str | None) -> Number | None:
    """A value that a worker found; see ``grader.Reply``."""
    if text is None:
        return None
    return Number(Fraction(text.removeprefix("~")), irrational=text.startswith("~"))
