"""Estimates over problems: pass@k, majority votes, and 95% intervals by a bootstrap over problems.

Axes of arrays: ``_P`` problems, ``_R`` bootstrap resamples, ``_M`` metrics.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import comb

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000
"""Of the bootstrap."""
_CHUNK = 100
"""Resamples whose weights are held at a time."""
_TAIL = 0.025
"""Probability left out at each end of a 95% interval."""
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?")
_RIGHT = ("right",)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that at least one of ``k`` of the samples is right: ``1 - C(n-c, k) / C(n, k)``.

    The unbiased estimator, from ``n >= k`` samples of which ``c`` are right.

    Raises:
        ValueError: k is not between 1 and ``samples``, or ``correct`` not between 0 and it.

    Source: Chen et al. 2021, arXiv 2107.03374, section 2.1.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{k} of {samples} samples, {correct} of them right, is not defined")
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def powers_of_two(limit: int) -> list[int]:
    """1, 2, 4, ... up to ``limit``."""
    return [1 << i for i in range(limit.bit_length())]


def majority(votes: Iterable[tuple[str | None, bool]]) -> float:
    """Chance that the answer with most votes is right.

    Args:
        votes: an answer and the task's scorer's verdict on it, for every sample. The answers that
            the scorer accepts are one candidate; of the others, those with the same ``answer_key``.
            None is no vote.

    Returns:
        1 or 0; where several candidates lead, ``1 / leaders`` if the right one is among them, which
        is what a draw between them gives on average; 0 when nobody voted.
    """
    ballots = Counter(
        _RIGHT if right else ("wrong", answer_key(answer))
        for answer, right in votes
        if answer is not None
    )
    if not ballots:
        return 0.0
    most = max(ballots.values())
    leaders = [candidate for candidate, count in ballots.items() if count == most]
    return 1.0 / len(leaders) if _RIGHT in leaders else 0.0


def answer_key(answer: str) -> str:
    """A form that equal answers share: a plain number by its value, else the text, in lower case
    and without spaces."""
    text = "".join(answer.split()).lower().strip("$").removesuffix(".")
    if len(text) <= 400 and _NUMBER.fullmatch(text):
        return str(Fraction(text.replace(",", "")))
    return text


@dataclass(frozen=True, slots=True)
class Sums:
    """A metric's parts: its value is ``total_P.sum() / count_P.sum()``.

    Attributes:
        total_P: what is added up in each problem.
        count_P: how many were added up; where that is an episode each, the metric is a mean over
            episodes, and a problem's episodes stay together in the bootstrap.
        share: whether every part lies between 0 and 1.
    """

    total_P: Floats
    count_P: Floats
    share: bool

    @property
    def value(self) -> float | None:
        """The metric; None when there was nothing to count."""
        count = float(self.count_P.sum())
        return float(self.total_P.sum()) / count if count else None


def intervals(metrics: Mapping[str, Sums], seed: int = 0) -> dict[str, tuple[float, float]]:
    """95% percentile intervals by a bootstrap over problems.

    Where all problems give 0, or all 1, a bootstrap sees no spread: the other end is then the
    Clopper-Pearson bound ``1 - 0.025 ** (1 / problems)``, or its mirror image.

    Args:
        metrics: over the same problems.
        seed: of the resamples, which all metrics share.

    Returns:
        Both ends, for metrics with at least two problems with something to count.
    """
    enough = {name: sums for name, sums in metrics.items() if _problems(sums) >= 2}
    values = _resampled(enough, seed)
    return {name: certain(s) or percentiles(values[name]) for name, s in enough.items()}


def differences(
    first: Mapping[str, Sums], second: Mapping[str, Sums], seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95% intervals of ``second - first``, the same problems drawn for both sides."""
    names = [
        name
        for name in first
        if name in second and min(_problems(first[name]), _problems(second[name])) >= 2
    ]
    before = _resampled({name: first[name] for name in names}, seed)
    after = _resampled({name: second[name] for name in names}, seed)
    return {name: percentiles(after[name] - before[name]) for name in names}


def _problems(sums: Sums) -> int:
    """How many problems have something to count."""
    return int((sums.count_P > 0).sum())


def certain(sums: Sums) -> tuple[float, float] | None:
    """The interval of a share that is the same extreme in all problems; None for others."""
    if not sums.share:
        return None
    counted = sums.count_P > 0
    means_P = sums.total_P[counted] / sums.count_P[counted]
    bound = 1.0 - _TAIL ** (1.0 / len(means_P))
    if (means_P == 0.0).all():
        return 0.0, bound
    return (1.0 - bound, 1.0) if (means_P == 1.0).all() else None


def _resampled(metrics: Mapping[str, Sums], seed: int) -> dict[str, Floats]:
    """[R] values of each metric; nan where a resample has nothing to count."""
    if not metrics:
        return {}
    total_PM = np.stack([sums.total_P for sums in metrics.values()], axis=1)
    count_PM = np.stack([sums.count_P for sums in metrics.values()], axis=1)
    generator = np.random.default_rng(seed)
    problems = len(total_PM)
    even_P = np.full(problems, 1.0 / problems)
    parts = []
    for _ in range(0, RESAMPLES, _CHUNK):
        weights_RP = generator.multinomial(problems, even_P, size=_CHUNK).astype(np.float64)
        with np.errstate(invalid="ignore"):
            parts.append((weights_RP @ total_PM) / (weights_RP @ count_PM))
    values_RM = np.concatenate(parts)
    return {name: values_RM[:, i] for i, name in enumerate(metrics)}


def percentiles(values_R: Floats) -> tuple[float, float]:
    """Both ends of the 95% percentile interval of resampled values; nan is left out."""
    low, high = np.nanquantile(values_R, [_TAIL, 1.0 - _TAIL])
    return float(low), float(high)
