"""Intervals over seeds and problems, and the step at which a curve reaches a target, by hand."""

from statistics import fmean

import numpy as np
import pytest

from cleaner_rl.compare.analysis import first_reached, isotonic
from cleaner_rl.eval.statistics import CrossedBootstrap, Measure, seeds_interval


def measure(values_SP, share=True):
    values_SP = np.asarray(values_SP, float)
    return Measure(values_SP, np.ones_like(values_SP), share)


def interval(bootstrap, values_SP, share=True):
    return bootstrap.intervals({"x": measure(values_SP, share)})["x"]


def width(ends):
    return ends[1] - ends[0]


def test_a_measure_is_counted_over_everything_and_by_seed():
    crossed = Measure(np.array([[1.0, 0.0], [2.0, 3.0]]), np.array([[1.0, 0.0], [2.0, 3.0]]), True)
    assert crossed.value == 1.0 and crossed.by_seed == [1.0, 1.0]
    assert Measure(np.zeros((1, 2)), np.zeros((1, 2)), True).value is None


def test_one_seed_gives_about_the_interval_over_problems():
    right = np.random.default_rng(0).random(200) < 0.4
    drawn = np.random.default_rng(1).integers(200, size=(2000, 200))
    plain = np.quantile(right[drawn].mean(axis=1), [0.025, 0.975])
    assert interval(CrossedBootstrap(1, 200), [right]) == pytest.approx(plain, abs=0.015)


def test_seeds_that_differ_widen_the_interval():
    alike, different = [[0, 1] * 50] * 4, [[0] * 100, [1] * 100] * 2
    resampling = CrossedBootstrap(4, 100)
    assert width(interval(resampling, different)) > 0.5
    assert width(interval(resampling, alike)) < 0.25


def test_differences_are_paired():
    """What seeds and problems have in common cancels out."""
    values_SP = np.random.default_rng(0).random((3, 50))
    resampling = CrossedBootstrap(3, 50)
    first, second = {"x": measure(values_SP)}, {"x": measure(values_SP + 0.25)}
    assert resampling.differences(first, second)["x"] == pytest.approx((0.25, 0.25))
    assert width(interval(resampling, values_SP)) > 0.05


def test_problems_that_a_measure_lacks_count_nowhere():
    short, padded = np.arange(6.0).reshape(2, 3), np.zeros((2, 5))
    padded[:, :3] = short
    count_SP = (np.arange(5) < 3) * np.ones((2, 5))
    bootstrap = CrossedBootstrap(2, 5)
    long = bootstrap.intervals({"x": Measure(padded, count_SP, False)})["x"]
    assert interval(bootstrap, short, share=False) == pytest.approx(long)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(60):
        seeds, problems = generator.normal(0, 0.3, (6, 1)), generator.normal(0, 1, (1, 60))
        values = seeds + problems + generator.normal(0, 1, (6, 60))
        low, high = interval(CrossedBootstrap(6, 60, trial), values, share=False)
        covered += low <= 0 <= high
    assert covered >= 52


def trials(seed_spread, problem_spread):
    """[S, P] values of three seeds that have 20 problems of their own each; their mean is zero."""
    generator = np.random.default_rng(2)
    for _ in range(200):
        problems = generator.normal(0, problem_spread * 20**0.5, (3, 20))
        yield generator.normal(0, seed_spread, (3, 1)) + problems


def coverage(intervals):
    return fmean(low <= 0 <= high for low, high in intervals)


@pytest.mark.parametrize(
    ("spreads", "low", "high"), [((0.0, 1.0), 0.95, 1.0), ((1.0, 0.01), 0.0, 0.85)]
)
def test_resampling_has_too_little_of_three_seeds_and_too_much_of_problems(spreads, low, high):
    """What the docstrings say."""
    covered = coverage(
        interval(CrossedBootstrap(3, 20, trial), values_SP, share=False)
        for trial, values_SP in enumerate(trials(*spreads))
    )
    assert low < covered <= high


@pytest.mark.parametrize("spreads", [(0.0, 1.0), (1.0, 0.01), (1.0, 1.0)])
def test_how_often_three_seeds_cover_the_truth(spreads):
    covered = coverage(seeds_interval(values_SP.mean(axis=1)) for values_SP in trials(*spreads))
    assert covered == pytest.approx(0.95, abs=0.04)


def test_students_interval_by_hand():
    assert seeds_interval([1.0]) is None
    assert seeds_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.484, 2 + 2.484), abs=1e-3)
    # 39 degrees of freedom have 2.023; the last of the table, 2.086, is a little wider.
    assert seeds_interval([0.0, 2.0] * 20) == pytest.approx((1 - 0.334, 1 + 0.334), abs=1e-3)


def test_a_share_that_is_the_same_everywhere_keeps_an_interval():
    low, high = interval(CrossedBootstrap(3, 20), np.zeros((3, 20)))
    assert low == 0 and high == pytest.approx(1 - 0.025 ** (1 / 20))


def test_the_isotonic_fit_pools_what_falls():
    fit = isotonic(np.array([[0.5, 0.6, 0.55, 0.8, 0.7], [0.9, 0.5, 0.4, 0.3, 0.2]]))
    assert fit[0] == pytest.approx([0.5, 0.575, 0.575, 0.75, 0.75])
    assert fit[1] == pytest.approx([0.46] * 5)


@pytest.mark.parametrize(
    ("curve", "target", "step"),
    [
        ([0.5, 0.6, 0.8, 0.9], 0.7, 15.0),  # between two evaluations
        ([0.5, 0.6, 0.8, 0.9], 0.9, 30.0),  # at the last one
        ([0.5, 0.6, 0.8, 0.9], 0.4, 0.0),  # from the start
        ([0.5, 0.6, 0.8, 0.9], 0.95, np.inf),  # never
        ([0.5, 0.9, 0.5, 0.5], 0.7, np.inf),  # a lucky evaluation reaches nothing
    ],
)
def test_when_a_curve_reaches_its_target(curve, target, step):
    fit = isotonic(np.array([curve]))
    assert first_reached([0, 10, 20, 30], fit, np.array([target])) == pytest.approx([step])
