"""Similarity of two calls, which decides between a shallow and a deep splice."""

from __future__ import annotations

from collections.abc import Callable

from cleaner_env.embedding import DEFAULT_MODEL, embedding_similarity

try:  # the same numbers as difflib's, several times as fast
    from cydifflib import SequenceMatcher
except ImportError:
    from difflib import SequenceMatcher

Similarity = Callable[[str, str], float]
"""Failed call and corrected call in, a number in [0, 1] out; 1 means the same text."""

EMBEDDING = "embedding"


def difflib_similarity(failed: str, corrected: str) -> float:
    """``difflib.SequenceMatcher(None, failed, corrected).ratio()``, autojunk on (CLEANER).

    Where ``cydifflib`` is installed (the extra ``fast``), it computes the same ratio.
    """
    ratio: float = SequenceMatcher(None, failed, corrected).ratio()
    return ratio


def resolve_similarity(metric: str | Similarity) -> Similarity:
    """The function behind a metric's name, or the function itself.

    Args:
        metric: ``"difflib"``; ``"embedding"`` or ``"embedding:MODEL"``, with the name or the
            directory of a sentence-transformers model; or a function.

    Raises:
        ValueError: there is no metric of that name.
        ImportError: the metric needs a package that is not installed.
    """
    if callable(metric):
        return metric
    if metric == "difflib":
        return difflib_similarity
    name, _, model = str(metric).partition(":")
    if name == EMBEDDING:
        return embedding_similarity(model or DEFAULT_MODEL)
    raise ValueError(
        f"unknown similarity {metric!r}; use 'difflib', 'embedding', 'embedding:MODEL', "
        "or a function of two strings that returns a number from 0 to 1"
    )
