"""Estimates: pass@k, majority votes, and 95% intervals by a bootstrap over seeds and problems.

Axes of arrays: ``_S`` seeds, ``_P`` problems, ``_R`` bootstrap resamples, ``_M`` measures.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb, sqrt
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Interval = tuple[float, float]

_RESAMPLES = 2000
"""Resamples of the bootstrap."""
_TAIL = 0.025
"""Probability beyond each end of a 95% interval."""
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?")
_RIGHT = ("right",)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Estimate of the probability that at least one of ``k`` samples is right.

    ``1 - C(n-c, k) / C(n, k)`` is unbiased, given ``n >= k`` samples, ``c`` of them right.
    Source: Chen et al. 2021, arXiv 2107.03374, section 2.1.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{k} of {samples} samples, {correct} of them right, is not defined")
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def majority(votes: Iterable[tuple[str | None, bool]]) -> float:
    """Probability that the answer with the most votes is right; 0 without votes.

    A vote is an answer and the scorer's verdict on it; None is not a vote. All answers that the
    scorer accepts form one candidate; other answers form one for each ``answer_key``. A tie is
    decided by lot: ``1 / leaders`` if the right candidate is among the leaders.
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
    """A key that equal answers share: the value of a plain number, otherwise the text in lower case
    without spaces."""
    text = "".join(answer.split()).lower().strip("$").removesuffix(".")
    if len(text) <= 400 and _NUMBER.fullmatch(text):
        return str(Fraction(text.replace(",", "")))
    return text


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric as a ratio of sums: its value is ``total_SP.sum() / count_SP.sum()``.

    If each episode counts 1, the metric is a mean over episodes; the bootstrap still resamples
    whole problems.
    """

    total_SP: Floats
    count_SP: Floats
    share: bool
    """Whether the metric of every set of episodes lies between 0 and 1."""

    @property
    def value(self) -> float | None:
        """The metric; None if nothing counts."""
        return _ratio(float(self.total_SP.sum()), float(self.count_SP.sum()))

    @property
    def by_seed(self) -> list[float | None]:
        """The metric of each seed."""
        totals, counts = self.total_SP.sum(axis=1), self.count_SP.sum(axis=1)
        return [_ratio(float(t), float(c)) for t, c in zip(totals, counts, strict=True)]

    @property
    def problems(self) -> int:
        """The number of problems in which something counts."""
        return int((self.count_SP.sum(axis=0) > 0).sum())


class CrossedBootstrap:
    """Resamples of seeds and of problems, drawn independently of each other.

    The same resamples serve every measure, so differences are paired by seed and by problem. With
    one seed this is the plain bootstrap over problems. These intervals give the variation between
    problems too much weight, above all if each seed has its own problems. If seeds are few, they
    give the variation between seeds too little weight: with S seeds, its variance is too small by a
    factor of (S - 1) / S, and the wider tails of S - 1 degrees of freedom are missing.
    ``seeds_interval`` uses the seeds alone.

    A measure may lack the last problems if nothing counts in them.

    Source: Owen 2007, The pigeonhole bootstrap, Annals of Applied Statistics 1(2), 386-411.
    """

    def __init__(self, seeds: int, problems: int, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self._weights_RS = _weights(generator, seeds)
        self._weights_RP = _weights(generator, problems)

    def values(self, measures: Mapping[str, Measure]) -> dict[str, Floats]:
        """[R] values of each measure; NaN where nothing counts in a resample."""
        if not measures:
            return {}
        total_RM = self._sums([measure.total_SP for measure in measures.values()])
        count_RM = self._sums([measure.count_SP for measure in measures.values()])
        with np.errstate(invalid="ignore", divide="ignore"):
            values_RM = total_RM / count_RM
        return {name: values_RM[:, i] for i, name in enumerate(measures)}

    def _sums(self, parts: Sequence[Floats]) -> Floats:
        parts_SPM = np.stack(parts, axis=-1)
        sums_SRM = self._weights_RP[:, : parts_SPM.shape[1]] @ parts_SPM
        sums_RM: Floats = (self._weights_RS.T[:, :, None] * sums_SRM).sum(axis=0)
        return sums_RM

    def seed_means(self, values_SK: Floats) -> Floats:
        """[R, K] resampled means over seeds, given K numbers of each seed."""
        means_RK: Floats = self._weights_RS @ values_SK / values_SK.shape[0]
        return means_RK

    def intervals(self, measures: Mapping[str, Measure]) -> dict[str, Interval]:
        """95% percentile intervals of the measures in which at least two problems count."""
        enough = {name: m for name, m in measures.items() if m.problems >= 2}
        values = self.values(enough)
        return {name: _interval(values[name], m, m.problems, 0.0) for name, m in enough.items()}

    def differences(
        self, first: Mapping[str, Measure], second: Mapping[str, Measure]
    ) -> dict[str, Interval]:
        """95% intervals of ``second - first``, from the resamples that have both."""
        if self._weights_RP.shape[1] < 2:
            return {}
        both = [name for name in second if name in first]
        before = self.values({name: first[name] for name in both})
        after = self.values({name: second[name] for name in both})
        gaps = {name: after[name] - before[name] for name in both}
        return {
            name: _interval(g_R, m := first[name], min(m.problems, second[name].problems), -1.0)
            for name, g_R in gaps.items()
            if not np.isnan(g_R).all()
        }


def _weights(generator: np.random.Generator, count: int) -> Floats:
    """[R, count]: how often each item is drawn in each resample."""
    return generator.multinomial(count, np.full(count, 1.0 / count), size=_RESAMPLES).astype(float)


def _interval(values_R: Floats, measure: Measure, problems: int, least: float) -> Interval:
    """The 95% percentile interval of resampled values, ignoring NaN.

    If all problems give 0, or 1, or -1, a bootstrap sees no spread. For a share, which lies between
    ``least`` and 1, the Clopper-Pearson bound then says how large a part of all problems may give
    something else, and the interval reaches as far as that part could move the mean.
    """
    low, high = map(float, np.nanquantile(values_R, [_TAIL, 1.0 - _TAIL]))
    if measure.share and low == high and low in (-1.0, 0.0, 1.0):
        unseen = 1.0 - _TAIL ** (1.0 / problems)
        return low - unseen * (low - least), high + unseen * (1.0 - high)
    return low, high


_STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""97.5% quantiles of Student's t for 1, 2, ... degrees of freedom; the last is used for more."""


def seeds_interval(values_S: Sequence[float]) -> Interval | None:
    """95% interval of the mean over independent seeds, by Student's t; None for one seed.

    It is wide if seeds are few, and assumes nothing about problems: if each seed has its own, they
    are part of the variation between seeds.
    """
    if len(values_S) < 2:
        return None
    quantile = _STUDENT[min(len(values_S) - 1, len(_STUDENT)) - 1]
    reach = quantile * standard_error(values_S)
    return fmean(values_S) - reach, fmean(values_S) + reach


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of independent values; 0 for fewer than two."""
    return stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0


def _ratio(total: float, count: float) -> float | None:
    return total / count if count else None
