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
"""Maps a failed and a corrected call to a number in [0, 1]; 1 means the same text."""

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "sentence_transformers"
_REMEMBERED = 4096
"""Embeddings that a metric keeps, because a failed call is compared again at the next retry."""


def difflib_similarity(failed: str, corrected: str) -> float:
    """``difflib.SequenceMatcher(None, failed, corrected).ratio()``, autojunk on (CLEANER).

    If ``cydifflib`` is installed (the extra ``fast``), it computes the same ratio.
    """
    ratio: float = SequenceMatcher(None, failed, corrected).ratio()
    return ratio


class EmbeddingSimilarity:
    """The cosine of two texts' embeddings, where negative values count as 0.

    The cosine is not rescaled from [-1, 1] to [0, 1]: unrelated programs, whose cosine is seldom
    below 0, would then exceed any sensible threshold. Equal texts have similarity 1. Models read
    only so many tokens (all-MiniLM-L6-v2: 256) and ignore the rest.

    ``model`` is the name or the directory of a sentence-transformers model, which is loaded at the
    first comparison. Threads may share a metric; they wait for each other.
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
        # Tokenizers reject lone surrogates, so characters that UTF-8 cannot encode become "?".
        readable = text.encode("utf-8", "replace").decode()
        vector: npt.NDArray[np.float32] = self._encoder.encode(
            readable, normalize_embeddings=True, show_progress_bar=False
        )
        return vector


embedding_similarity = cache(EmbeddingSimilarity)
"""The metric of a model, shared by all environments that name this model."""


def _load(model: str) -> Any:
    # Imported by name at run time: this package must not depend on torch, which that one needs.
    package = import_module(_PACKAGE)
    try:
        return package.SentenceTransformer(model)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load the sentence-transformers model {model!r}; name a directory that holds "
            f"one, as in similarity='embedding:PATH'. The reason: {error}"
        ) from error


def resolve_similarity(metric: str | Similarity) -> Similarity:
    """The function for a metric's name (see ``SAARWrapper``), or the function itself."""
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
