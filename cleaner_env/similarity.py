"""Similarity of two calls, which decides between a shallow and a deep splice."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

try:  # the same numbers as difflib's, several times as fast
    from cydifflib import SequenceMatcher
except ImportError:
    from difflib import SequenceMatcher

Similarity = Callable[[str, str], float]
"""Failed call and corrected call in, a number in [0, 1] out; 1 means the same text."""

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "sentence_transformers"
_REMEMBERED = 4096
"""Embeddings that a metric keeps: a failed call is compared again at the next retry."""


def difflib_similarity(failed: str, corrected: str) -> float:
    """``difflib.SequenceMatcher(None, failed, corrected).ratio()``, autojunk on (CLEANER).

    Where ``cydifflib`` is installed (the extra ``fast``), it computes the same ratio.
    """
    ratio: float = SequenceMatcher(None, failed, corrected).ratio()
    return ratio


class EmbeddingSimilarity:
    """The cosine of two texts' embeddings, negative ones counted as 0.

    The cosine is not stretched to [0, 1], because then unrelated programs, whose cosine is seldom
    below 0, would lie above any sensible threshold. Two equal texts have similarity 1. Models read
    a limited number of tokens (all-MiniLM-L6-v2: 256) and do not see what follows.

    The model is loaded at the first comparison. Threads may share a metric; they wait for each
    other.

    ``model`` is the name or the directory of a sentence-transformers model.
    """

    def __init__(self, model: str = DEFAULT_MODEL) -> None:
        if find_spec(_PACKAGE) is None:
            raise ImportError(
                "similarity by embedding needs sentence-transformers: "
                "pip install -e '.[embed]', or use similarity='difflib'"
            )
        if model.startswith(("/", ".")) and not Path(model).is_dir():
            raise ValueError(f"similarity by embedding: there is no directory {model!r}")
        self.model = model
        self._lock = Lock()
        self._encoder: Any = None
        self._embed = lru_cache(maxsize=_REMEMBERED)(self._encode)

    def __call__(self, failed: str, corrected: str) -> float:
        """The similarity of two texts, in [0, 1]."""
        if failed == corrected:
            return 1.0
        with self._lock:
            cosine = float(self._embed(failed) @ self._embed(corrected))
        return min(1.0, max(0.0, cosine))

    def _encode(self, text: str) -> npt.NDArray[np.float32]:
        """The text's embedding, of length 1."""
        if self._encoder is None:
            self._encoder = _load(self.model)
        # A tokenizer takes no lone surrogates; what cannot be UTF-8 becomes "?" for it.
        readable = text.encode("utf-8", "replace").decode()
        vector: npt.NDArray[np.float32] = self._encoder.encode(
            readable, normalize_embeddings=True, show_progress_bar=False
        )
        return vector


@cache
def embedding_similarity(model: str) -> EmbeddingSimilarity:
    """The metric of that model; environments that name the same model share it."""
    return EmbeddingSimilarity(model)


def _load(model: str) -> Any:
    # By name at run time: this package never depends on torch, which comes with that one.
    package = import_module(_PACKAGE)
    try:
        return package.SentenceTransformer(model)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load the sentence-transformers model {model!r}; name a directory that holds "
            f"one, as in similarity='embedding:PATH'. The reason: {error}"
        ) from error


def resolve_similarity(metric: str | Similarity) -> Similarity:
    """The function behind a metric's name, or the function itself.

    Args:
        metric: ``"difflib"``; ``"embedding"`` or ``"embedding:MODEL"``, with the name or the
            directory of a sentence-transformers model; or a function.
    """
    if callable(metric):
        return metric
    if metric == "difflib":
        return difflib_similarity
    name, _, model = str(metric).partition(":")
    if name == "embedding":
        return embedding_similarity(model or DEFAULT_MODEL)
    raise ValueError(
        f"unknown similarity {metric!r}; use 'difflib', 'embedding', 'embedding:MODEL', "
        "or a function of two strings that returns a number from 0 to 1"
    )
