"""Crossed: measures over seeds and problems, with intervals by resampling both.

Axes of arrays: ``_S`` seeds, ``_P`` problems, ``_R`` bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from cleaner_rl.eval.statistics import RESAMPLES, Floats, Sums, certain, percentiles

_STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""97.5% quantiles of Student's t with 1, 2, ... degrees of freedom; the last serves for more."""


@dataclass(frozen=True, slots=True)
class Crossed:
    """A measure's parts: its value is ``total_SP.sum() / count_SP.sum()``.

    Attributes:
        total_SP: what is added up for each seed and problem.
        count_SP: how many were added up.
        share: whether every part lies between 0 and 1.
    """

    total_SP: Floats
    count_SP: Floats
    share: bool

    @property
    def value(self) -> float | None:
        """The measure; None when there was nothing to count."""
        return _ratio(float(self.total_SP.sum()), float(self.count_SP.sum()))

    @property
    def by_seed(self) -> list[float | None]:
        """The measure of each seed."""
        totals, counts = self.total_SP.sum(axis=1), self.count_SP.sum(axis=1)
        return [_ratio(float(t), float(c)) for t, c in zip(totals, counts, strict=True)]

    def padded(self, problems: int) -> Crossed:
        """The same with further problems in which nothing counts."""
        more = ((0, 0), (0, problems - self.total_SP.shape[1]))
        return Crossed(np.pad(self.total_SP, more), np.pad(self.count_SP, more), self.share)

    def pooled(self) -> Sums:
        """The parts of each problem, seeds added up."""
        return Sums(self.total_SP.sum(axis=0), self.count_SP.sum(axis=0), self.share)


class Resampling:
    """Resamples of seeds and of problems, drawn independently of each other.

    The same resamples serve every measure, so differences between arms are paired by seed and by
    problem. With one seed only problems are resampled. Problems count too much in these intervals,
    most where every seed has problems of its own; how seeds differ counts too little where seeds
    are few (with S of them by a factor of (S - 1) / S in the variance, and without the wider tails
    that S - 1 degrees of freedom have). ``seeds_interval`` goes by the seeds alone.

    Source: Owen 2007, The pigeonhole bootstrap, Annals of Applied Statistics 1(2), 386-411.

    Args:
        seeds: how many.
        problems: how many.
        seed: of the resampling.
    """

    def __init__(self, seeds: int, problems: int, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.weights_RS = _weights(generator, seeds)
        self.weights_RP = _weights(generator, problems)

    def values(self, measure: Crossed) -> Floats:
        """[R] values of a measure; nan where a resample has nothing to count."""
        total_R = (self.weights_RP @ measure.total_SP.T * self.weights_RS).sum(axis=1)
        count_R = (self.weights_RP @ measure.count_SP.T * self.weights_RS).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            values_R: Floats = total_R / count_R
        return values_R

    def seed_means(self, values_SK: Floats) -> Floats:
        """[R, K] means over seeds of numbers that a seed has one of each."""
        means_RK: Floats = self.weights_RS @ values_SK / values_SK.shape[0]
        return means_RK

    def interval(self, measure: Crossed) -> tuple[float, float] | None:
        """95% interval of a measure; None when there are fewer than two problems to count.

        A share that is 0, or 1, in all problems has the bound of ``estimates.intervals``.
        """
        pooled = measure.pooled()
        if int((pooled.count_P > 0).sum()) < 2:
            return None
        return certain(pooled) or percentiles(self.values(measure))

    def difference(self, first: Crossed, second: Crossed) -> tuple[float, float] | None:
        """95% interval of ``second - first``; None where one of the two has none."""
        values_R = self.values(second) - self.values(first)
        if np.isnan(values_R).all() or self.weights_RP.shape[1] < 2:
            return None
        return percentiles(values_R)


def seeds_interval(values_S: Sequence[float]) -> tuple[float, float] | None:
    """95% interval of the mean of what independent seeds gave, by Student's t; None for one seed.

    It makes no assumption about problems, which are a part of how seeds differ where each seed has
    its own, and is wide where seeds are few.
    """
    if len(values_S) < 2:
        return None
    quantile = _STUDENT[min(len(values_S) - 1, len(_STUDENT)) - 1]
    reach = quantile * stdev(values_S) / len(values_S) ** 0.5
    return fmean(values_S) - reach, fmean(values_S) + reach


def _weights(generator: np.random.Generator, count: int) -> Floats:
    """[R, count] how often each is drawn."""
    return generator.multinomial(count, np.full(count, 1.0 / count), size=RESAMPLES).astype(float)


def _ratio(total: float, count: float) -> float | None:
    return total / count if count else None
