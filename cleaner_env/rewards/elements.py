"""Elements: collections and intervals as an answer writes them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cleaner_env.rewards.notation import closing, split
from cleaner_env.rewards.numbers import read_number
from cleaner_env.rewards.units import split_unit

JOINTS = (",", ";", " and ", " or ", r"\cup")
"""What stands between the elements of a collection."""
NAME = r"(?:\\?[A-Za-z]+(?:_(?:\{\w+\}|\w+))?'?(?:\([^()]*\))?)"
"""A variable, such as ``x_1`` and ``f(x)``."""
ASSIGNMENT = re.compile(rf"({NAME}|\\text\{{[^{{}}]*\}})\s*=\s*([^=]*)")
_MATRIX = re.compile(r"\\begin\{([pbB]?|small)matrix\}(.*)\\end\{\1matrix\}")
_RELATION = re.compile(r"(\\le\b|\\ge\b|<|>)")


@dataclass(frozen=True, slots=True)
class Elements:
    """The elements of a collection; ``kind`` is the pair of brackets around them, or nothing."""

    kind: str
    items: list[str]
    ordered: bool

    def fits(self, answer: Elements) -> bool:
        """Whether an answer's brackets can stand for the reference's.

        Two elements in brackets may be an interval, whose brackets have a meaning. Apart from that,
        any brackets will do, since programs print lists and tuples of everything.
        """
        kinds = {self.kind, answer.kind}
        if len(kinds) == 1 or kinds & {"(]", "[)"}:
            return len(kinds) == 1
        interval = len(self.items) == 2 and self.items[0][0] not in "(["
        return not interval or "[]" not in kinds or "" in kinds


def read_elements(text: str) -> Elements | None:
    r"""The elements of a set, tuple, list, union or matrix; None if a text is nothing of the kind.

    ``1 \pm \sqrt{2}`` has two elements. A matrix is a list of its rows.
    """
    if matrix := _MATRIX.fullmatch(text):
        rows = [f"[{row.replace('&', ',')}]" for row in matrix[2].split(r"\\") if row.strip()]
        return Elements("[]", rows, ordered=True)
    if is_quantity(text):
        return None
    kind, inside = "", text
    for first in ("(", "[", r"\{"):
        if text.startswith(first) and closing(text, len(first) - 1) == len(text) - 1:
            kind = text[len(first) - 1] + text[-1]
            inside = text[len(first) : -len(first)]
    items = []
    for item in filter(None, split(inside, *JOINTS)):
        signs = ("+", "-") if item.count(r"\pm") == 1 else ("",)
        items += [item.replace(r"\pm", sign) for sign in signs]
    if kind in ("", "()") and len(items) < 2:
        return None
    ordered = kind not in ("", "{}") or r"\ldots" in items
    names = {found[1] for item in items if (found := ASSIGNMENT.fullmatch(item))}
    if len(names) == len(items):  # x = 2, y = 3
        items, ordered = sorted(items), True
    return Elements(kind, items, ordered)


def is_quantity(text: str) -> bool:
    """Whether a text is a number, perhaps with a unit."""
    return read_number(split_unit(text)[0]) is not None


def as_intervals(text: str) -> tuple[str, str] | None:
    """The variable of an inequality, or of several joined by "or", and the interval or union."""
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
    rising = [sign in ("<", r"\le") for sign in signs]
    if not _is_name(values[1]) or rising[0] != rising[1]:
        return None
    if not rising[0]:
        values, signs = values[::-1], signs[::-1]
    left = "[" if values[0] and signs[0] in (r"\le", r"\ge") else "("
    right = "]" if values[2] and signs[1] in (r"\le", r"\ge") else ")"
    return values[1], rf"{left}{values[0] or '-∞'},{values[2] or '∞'}{right}".replace(
        "∞", r"\infty"
    )


def _is_name(text: str) -> bool:
    return re.fullmatch(NAME, text) is not None and text not in (r"\pi", r"\infty")
