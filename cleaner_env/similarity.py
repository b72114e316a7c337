"""Similarity of two calls, which decides between a shallow and a deep splice."""

from __future__ import annotations

from collections.abc import Callable
from difflib import SequenceMatcher

Similarity = Callable[[str, str], float]
"""Failed call and corrected call in, a number in [0, 1] out; 1 means the same text."""


def difflib_similarity(failed: str, corrected: str) -> float:
    """``difflib.SequenceMatcher(None, failed, corrected).ratio()``, autojunk on (CLEANER)."""
    return SequenceMatcher(None, failed, corrected).ratio()


METRICS: dict[str, Similarity] = {"difflib": difflib_similarity}


def resolve_similarity(metric: str | Similarity) -> Similarity:
    """The function behind a metric's name, or the function itself.

    Raises:
        ValueError: there is no metric of that name.
    """
    if callable(metric):
        return metric
    if metric not in METRICS:
        raise ValueError(
            f"unknown similarity {metric!r}; use one of {sorted(METRICS)} "
            "or a function of two strings that returns a number from 0 to 1"
        )
    return METRICS[metric]
