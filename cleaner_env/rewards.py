"""Rewards: find the final answer in a turn and compare it with the reference."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from cleaner_env.tasks import Task, reasoning_gym_scorer

Scorer = Callable[[str, Task], float]
"""Answer and task in, score in [0, 1] out; 1 is right."""


def extract_boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}``, braces inside it balanced."""
    marker = "\\boxed{"
    end_of: dict[int, int] = {}
    open_braces: list[int] = []
    for place, character in enumerate(text):
        if character == "{":
            open_braces.append(place)
        elif character == "}" and open_braces:
            end_of[open_braces.pop()] = place
    start = text.rfind(marker)
    while start >= 0:
        brace = start + len(marker) - 1
        if brace in end_of:
            return text[brace + 1 : end_of[brace]].strip()
        start = text.rfind(marker, 0, start)
    return None


def exact_score(answer: str, task: Task) -> float:
    """1.0 when the answer is the reference, spaces at both ends aside."""
    return float(answer.strip() == task.answer.strip())


def math_score(answer: str, task: Task) -> float:
    """1.0 when both are the same number (``0.5``, ``1/2``, ``1,000``, ``$12``) or the same text."""
    ours, theirs = _number(answer), _number(task.answer)
    if ours is not None and theirs is not None:
        return float(ours == theirs)
    return float(_normal(answer) == _normal(task.answer))


def reasoning_gym_score(answer: str, task: Task) -> float:
    """The score that reasoning-gym's own scorer of the family gives.

    Some of its scorers raise at an answer that they cannot read; such an answer is wrong.
    """
    scorer = reasoning_gym_scorer(task.family)
    try:
        return float(scorer(answer, task.entry))
    except Exception:
        return 0.0


SCORERS: dict[str, Scorer] = {
    "exact": exact_score,
    "math": math_score,
    "reasoning_gym": reasoning_gym_score,
}


def check_reward(task: Task) -> None:
    """Check that the task's answers can be scored.

    Raises:
        ValueError: the task names a scorer, or a family of reasoning-gym, that does not exist.
    """
    if task.reward not in SCORERS:
        raise ValueError(f"unknown reward {task.reward!r}; use one of {sorted(SCORERS)}")
    if task.reward == "reasoning_gym":
        reasoning_gym_scorer(task.family)


def score(answer: str, task: Task) -> float:
    """The verdict of the task's scorer, in [0, 1].

    Raises:
        ValueError: see ``check_reward``.
    """
    check_reward(task)
    return SCORERS[task.reward](answer, task)


def overlong_penalty(length: int, limit: int, buffer: int, factor: float = 1.0) -> float:
    """What a long response costs: 0 up to ``limit - buffer``, then linearly up to ``factor``.

    Args:
        length: tokens of the response.
        limit: most tokens it may have.
        buffer: how many tokens before the limit the penalty begins; 0 for no penalty.
        factor: penalty at the limit.

    Source: DAPO (2503.14476), soft overlong punishment.
    """
    if buffer <= 0:
        return 0.0
    return factor * min(1.0, max(0.0, (length - (limit - buffer)) / buffer))


_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?([eE][+-]?\d{1,3})?|[+-]?\d+\s*/\s*\d+")
"""Numbers that are compared as numbers. Exponents are short: 1e999999999 would never be done."""
_MAX_DIGITS = 400


def _normal(text: str) -> str:
    """Text in lower case, without the spaces that do not stand between two words."""
    return re.sub(r"\s*(\W)\s*", r"\1", " ".join(text.split())).lower()


def _number(text: str) -> Fraction | None:
    cleaned = text.strip().strip("$").removesuffix("\\%").removesuffix("%").strip()
    if len(cleaned) > _MAX_DIGITS or not _NUMBER.fullmatch(cleaned):
        return None
    try:
        return Fraction("".join(cleaned.replace(",", "").split()))
    except (ValueError, ZeroDivisionError):
        return None
