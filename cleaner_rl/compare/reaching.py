"""Reaching: after how many steps a learning curve has got to a target.

Axes of arrays: ``_R`` bootstrap resamples, ``_E`` evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cleaner_rl.eval.statistics import Floats

DEFINITION = (
    "The target is the baseline's accuracy at the last step, rollback off. Both it and the step at "
    "which an arm reaches it are read from the curve that rises, or stays level, and lies closest "
    "to the arm's evaluations (isotonic regression, least squares), with straight lines between "
    "evaluations. So a single lucky evaluation reaches nothing, nor does a curve that falls back. "
    "Ratios are to the baseline's own step."
)
_ROUNDING = 1e-9


def isotonic(values_RE: Floats) -> Floats:
    """The non-decreasing rows closest to these, by least squares.

    The max-min formula: ``fit[i] = max over a <= i of min over b >= i of mean(values[a..b])``.

    Source: Robertson, Wright and Dykstra 1988, Order Restricted Statistical Inference, ch. 1.4.
    """
    count = values_RE.shape[1]
    sums = np.concatenate([np.zeros((len(values_RE), 1)), values_RE.cumsum(axis=1)], axis=1)
    fit = np.full_like(values_RE, -np.inf)
    for first in range(count):
        lengths = np.arange(1, count - first + 1)
        means = (sums[:, first + 1 :] - sums[:, first : first + 1]) / lengths
        lowest = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        fit[:, first:] = np.maximum(fit[:, first:], lowest)
    return fit


def first_reached(steps: Sequence[int], fit_RE: Floats, target_R: Floats) -> Floats:
    """[R] steps at which non-decreasing curves reach their targets; inf where they do not.

    Args:
        steps: of the evaluations.
        fit_RE: from ``isotonic``.
        target_R: one for each curve.
    """
    reached_RE = fit_RE >= target_R[:, None] - _ROUNDING
    steps_E = np.asarray(steps, float)
    at = reached_RE.argmax(axis=1)
    before = np.maximum(at - 1, 0)
    rows = np.arange(len(fit_RE))
    low, high = fit_RE[rows, before], fit_RE[rows, at]
    rise = np.where(high > low, high - low, 1.0)
    share = np.where(at > 0, np.clip((target_R - low) / rise, 0.0, 1.0), 0.0)
    step = steps_E[before] + share * (steps_E[at] - steps_E[before])
    found: Floats = np.where(reached_RE.any(axis=1), step, np.inf)
    return found
