"""Comparison: whether what a program printed or returned is what a test expects."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

ABSOLUTE = 1e-9  # the tolerance next to zero
INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")  # 0101 is a word
NUMBER = re.compile(
    r"[+-]?(?:(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|infinity|nan)",
    re.IGNORECASE,
)


def same_text(actual: str, expected: str, margin: float | None) -> bool:
    """Equality of text, or with a margin of its words, where integers are exact and floats close.

    The space between words does not count. A number that is expected to be an integer may be
    written as a float of just that value.
    """
    if margin is None:
        return actual == expected
    words, wanted = actual.split(), expected.split()
    return len(words) == len(wanted) and all(
        a == b or same_number(a, b, margin) for a, b in zip(words, wanted, strict=True)
    )


def same_number(actual: str, expected: str, margin: float) -> bool:
    if not (NUMBER.fullmatch(actual) and NUMBER.fullmatch(expected)):
        return False
    if INTEGER.fullmatch(expected):
        try:
            # Exact, and quick: an integer of many digits is never made of them.
            return Decimal(actual) == Decimal(expected)
        except ArithmeticError:  # an exponent beyond all bounds
            return False
    return close(float(actual), float(expected), margin)


def same_value(actual: Any, expected: Any, margin: float | None) -> bool:
    """Equality of plain data, where a list equals a tuple, and floats may differ by the margin.

    The numbers in sets count as floats do; the keys of dicts are compared exactly.
    """
    if isinstance(actual, list | tuple) and isinstance(expected, list | tuple):
        return len(actual) == len(expected) and all(
            same_value(a, b, margin) for a, b in zip(actual, expected, strict=True)
        )
    if isinstance(actual, dict) and isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(
            same_value(actual[key], expected[key], margin) for key in expected
        )
    if isinstance(actual, bool) or isinstance(expected, bool):
        return actual is expected
    if margin is not None:
        if isinstance(expected, float) and isinstance(actual, int | float):
            return close(actual, expected, margin)
        if isinstance(expected, complex) and isinstance(actual, int | float | complex):
            return same_value([actual.real, actual.imag], [expected.real, expected.imag], margin)
        if are_numbers(actual) and are_numbers(expected):
            return same_value(sorted(actual), sorted(expected), margin)
    return bool(actual == expected)


def are_numbers(values: Any) -> bool:
    return isinstance(values, set | frozenset) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )


def close(actual: float, expected: float, margin: float) -> bool:
    try:
        if math.isnan(actual) or math.isnan(expected):
            return math.isnan(actual) and math.isnan(expected)
        return math.isclose(actual, expected, rel_tol=margin, abs_tol=ABSOLUTE)
    except OverflowError:  # an integer beyond the floats
        return actual == expected
