"""Numbers: the value of a number as it is written, and how exactly it is written."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

SIGNIFICANT = 6
"""Digits in which a decimal must agree with an exact value."""
_MAX_CHARACTERS = 400
_FLOAT_ERROR = Fraction(1, 2**50)
"""The relative error of a float that a program printed in full."""
_IRRATIONAL_ERROR = Fraction(1, 10**40)
"""The relative error up to which irrational numbers of 50 digits are the same."""

_GROUPED = r"\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}|\d+"
_DECIMAL = re.compile(
    rf"""(?P<whole>{_GROUPED})?
    (?:\.(?P<part>\d*)
       (?:\\overline\s*\{{(?P<bar>\d+)\}}|\((?P<round>\d+)\)|(?P<dots>\s*\\ldots)
         |\\dot\s*\{{?(?P<dot>\d)\}}?(?:(?P<between>\d*)\\dot\s*\{{?(?P<last>\d)\}}?)?)?
    )?
    (?:(?:[eE]|\s*\\cdot\s*10\s*\^)\s*\{{?(?P<exponent>[+-]?\d{{1,3}})\}}?)?""",
    re.VERBOSE,
)
_FRACTION = re.compile(
    rf"(?:(\d+)(?: +|(?=\\)))?(?:\\frac\{{(-?)({_GROUPED})\}}\{{(-?)({_GROUPED})\}}"
    rf"|({_GROUPED})\s*/\s*({_GROUPED}))"
)
_POWER = re.compile(r"10\s*\^\{(-?\d{1,3})\}")
IN_BASE = re.compile(r"([0-9A-Z]+)\s*_\s*\{?(\d{1,2})\}?")
"""A number with its base: ``1010_2``."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it is written.

    Attributes:
        last: the worth of one unit of a decimal's last digit; None if the number is exact.
        digits: significant digits of a decimal, otherwise 0.
        irrational: ``value`` is the number to 50 digits, and not the number itself.
    """

    value: Fraction
    last: Fraction | None = None
    digits: int = 0
    irrational: bool = False

    def scaled(self, factor: Fraction) -> Number:
        """The number times an exact factor."""
        last = None if self.last is None else self.last * factor
        return replace(self, value=self.value * factor, last=last)

    def accepts(self, answer: Number) -> bool:
        """Whether an answer counts as this reference.

        An equal value always does. An integer accepts nothing else. A decimal of two digits or more
        accepts what rounds to it at its last digit, any other number a decimal that agrees with it
        in six significant digits.
        """
        off, size = abs(answer.value - self.value), abs(self.value)
        if self.irrational or answer.irrational:
            off -= size * _IRRATIONAL_ERROR
        if off <= 0:
            return True
        if self.last is None and self.value.denominator == 1:
            return False
        if self.last is not None and self.digits > 1:
            return off <= max(self.last / 2, size * _FLOAT_ERROR)
        unit = Fraction(10) ** (_exponent(size) + 1 - SIGNIFICANT)
        rounded = off <= unit / 2
        cut = off < unit and abs(answer.value) // unit == size // unit
        return answer.digits >= SIGNIFICANT and (rounded or cut)


def _exponent(size: Fraction) -> int:
    """The power of ten of a number's first digit."""
    guess = len(str(size.numerator)) - len(str(size.denominator))
    return guess if size >= Fraction(10) ** guess else guess - 1


def read_number(text: str) -> Number | None:
    r"""The number that a text in plain TeX is; None if it is anything else.

    ``1,000``, ``-2.50``, ``1.6 \cdot 10^{-19}``, ``10^{6}``, ``1/2``, ``2 1/2``, ``1010_2``,
    ``0.\overline{3}`` and ``0.333\ldots`` are numbers; ``\pi`` and ``1 + 2`` are not.
    """
    text = text.strip()
    if not text or len(text) > _MAX_CHARACTERS:
        return None
    unsigned = text[1:].lstrip() if text[0] in "+-" else text
    try:
        for pattern, read in _READERS:
            if found := pattern.fullmatch(unsigned):
                number = read(found)
                return number and number.scaled(Fraction(-1 if text[0] == "-" else 1))
    except (ValueError, ZeroDivisionError):  # base 40, or 1/0
        pass
    return None


def _decimal(found: re.Match[str]) -> Number | None:
    whole, part = (found["whole"] or "").replace(",", ""), found["part"]
    if not whole and not part:
        return None
    digits = whole + (part or "")
    exponent = int(found["exponent"] or 0)
    last = Fraction(10) ** (exponent - len(part or ""))
    value = int(digits or "0") * last
    block = found["bar"] or found["round"]
    if found["dot"]:
        block = found["dot"] + (found["between"] or "") + (found["last"] or "")
    if found["dots"]:
        recurs = re.search(r"(\d+?)\1+$", part)
        if recurs:
            block = recurs[1]
    if block:
        return Number(value + last * Fraction(int(block), 10 ** len(block) - 1))
    if part is None or (value.denominator == 1 and not found["exponent"]):
        return Number(value)
    return Number(value, last, len(digits.lstrip("0")))


def _fraction(found: re.Match[str]) -> Number | None:
    mixed, minus, top, minus_below, below, left, right = found.groups()
    numerator = int((top or left).replace(",", ""))
    denominator = int((below or right).replace(",", ""))
    if mixed is not None and (numerator >= denominator or minus or minus_below):
        return None
    part = Fraction(numerator, denominator) * (-1 if minus else 1) * (-1 if minus_below else 1)
    return Number(int(mixed or 0) + part)


def _in_base(found: re.Match[str]) -> Number | None:
    digits, base = found[1], int(found[2])
    if base < 2 or (len(digits) < 2 and not digits.isdigit()):  # A_{12} is a name
        return None
    return Number(Fraction(int(digits, base)))


_READERS = (
    (_DECIMAL, _decimal),
    (_FRACTION, _fraction),
    (_POWER, lambda found: Number(Fraction(10) ** int(found[1]))),
    (IN_BASE, _in_base),
)
