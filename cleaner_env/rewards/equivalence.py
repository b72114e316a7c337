r"""Math equivalence: exact comparison of plain numbers and words, math-verify for the rest.

The order of the rules, the first that decides wins:

1. An empty or very long answer is wrong, unless it is the reference's own text.
2. The same text, apart from spaces, capital letters, ``$``, ``\text{}`` and the like: right.
3. The reference is a word or words (``\text{ellipse}``, ``blue``): wrong, since math-verify reads
   letters as factors, and would take ``silent`` for ``listen``.
4. Both are plain numbers (``1,000``, ``12.50``, ``1/2``, ``50\%``, ``1e-6``): right when they are
   equal; wrong when they differ and one is an integer, or by more than a rounding error.
5. math-verify decides, in a process that can be killed (see ``grader``).
"""

from __future__ import annotations

import re
from fractions import Fraction

from cleaner_env.rewards.grader import GRADER

MAX_CHARACTERS = 2_000
"""Longer answers are not compared by math-verify."""
_MAX_DIGITS = 400
_ROUNDING = Fraction(1, 10**5)
"""Numbers further apart than this are different, however one of them was rounded."""
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?([eE][+-]?\d{1,3})?|[+-]?\d+\s*/\s*\d+")
"""Numbers that are compared as numbers. Exponents are short: 1e999999999 would never be done."""
_INTEGER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)")
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_][^\W\d_' -]*", re.ASCII)
_SHORT_WORDS = {"yes", "no", "true", "false", "none", "odd", "even"}
_FUNCTIONS = re.compile(r"sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|inf|frac|mod|min|max|det")
_FORM = re.compile(r"([\d.])\s*[eE]\s*([+-]?\d{1,3})")


def equivalent(gold: str, answer: str) -> bool:
    """Whether an answer is mathematically the same as the reference."""
    gold, answer = _stripped(gold), _stripped(answer)
    if _normal(gold) == _normal(answer):
        return bool(gold)
    if not answer or not gold or max(len(answer), len(gold)) > MAX_CHARACTERS or is_words(gold):
        return False
    known = same_number(gold, answer)
    if known is not None:
        return known
    return GRADER.equal(_for_math_verify(gold), _for_math_verify(answer))


def same_number(gold: str, answer: str) -> bool | None:
    """Whether two plain numbers are equal; None where that takes more than their digits.

    Two numbers that are not integers may be the same one, rounded: math-verify compares six
    decimals. A percentage may be meant as a number of hundredths or as a fraction.
    """
    ours, theirs = number(answer), number(gold)
    if ours is None or theirs is None:
        return None
    if ours == theirs:
        return True
    if "%" in gold + answer:
        return None
    integers = any(_INTEGER.fullmatch(text) for text in (gold, answer))
    return False if integers or abs(ours - theirs) > _ROUNDING else None


def number(text: str) -> Fraction | None:
    r"""The value of a plain number; ``$`` before it and ``%`` behind it are ignored."""
    cleaned = text.strip().strip("$").removesuffix("%").removesuffix("\\").strip()
    if len(cleaned) > _MAX_DIGITS or not _NUMBER.fullmatch(cleaned):
        return None
    try:
        return Fraction("".join(cleaned.replace(",", "").split()))
    except (ValueError, ZeroDivisionError):
        return None


def is_words(gold: str) -> bool:
    """Whether a reference is text: it has a word of four letters or more, or is one like yes."""
    plain = _unwrapped(gold)
    if not _WORDS.fullmatch(plain) or _FUNCTIONS.search(plain.lower()):
        return False
    longest = max(map(len, re.split(r"[^A-Za-z]+", plain)))
    return longest >= 4 or plain.lower() in _SHORT_WORDS


def _stripped(text: str) -> str:
    """Without what is around a formula or a text, and without full stops behind it."""
    text = text.strip()
    for left, right in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if text.startswith(left) and text.endswith(right) and len(text) > len(left) + len(right):
            text = text[len(left) : -len(right)].strip()
    wrapped = _WRAPPED.fullmatch(text)
    return (wrapped[1] if wrapped else text).strip().rstrip(". ")


def _unwrapped(text: str) -> str:
    return _WRAPPED.sub(r"\1", text).strip()


def _normal(text: str) -> str:
    """Text in lower case, without the spaces that do not stand between two words."""
    return re.sub(r"\s*(\W)\s*", r"\1", " ".join(_unwrapped(text).split())).lower()


def _for_math_verify(text: str) -> str:
    """Exponents as powers of ten: math-verify reads the e of 1e6 as a number of its own."""
    return _FORM.sub(r"\1 \\cdot 10^{\2}", text) if number(text) is not None else text
