"""Estimates over problems, against enumeration and known distributions."""

from itertools import combinations
from math import comb

import numpy as np
import pytest

from cleaner_rl.eval.statistics import (
    CrossedBootstrap,
    Measure,
    answer_key,
    majority,
    pass_at_k,
)


@pytest.mark.parametrize("correct", range(7))
@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_pass_at_k_is_the_mean_over_all_ways_to_choose_k(correct, k):
    samples = [True] * correct + [False] * (6 - correct)
    chosen = [any(choice) for choice in combinations(samples, k)]
    assert pass_at_k(6, correct, k) == pytest.approx(sum(chosen) / comb(6, k))


def test_pass_at_k_is_unbiased():
    generator = np.random.default_rng(0)
    right = generator.binomial(8, 0.3, size=20_000)
    assert np.mean([pass_at_k(8, c, 4) for c in right]) == pytest.approx(1 - 0.7**4, abs=0.005)


@pytest.mark.parametrize(("samples", "correct", "k"), [(4, 2, 5), (4, 5, 2), (4, 2, 0)])
def test_pass_at_k_outside_its_range_is_refused(samples, correct, k):
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(samples, correct, k)


def votes(text):
    """``"7+ 8- _-"``: answer and verdict; an underscore is no answer."""
    return [(None if vote[:-1] == "_" else vote[:-1], vote[-1] == "+") for vote in text.split()]


@pytest.mark.parametrize(
    ("ballots", "expected"),
    [
        ("7+ 7+ 8-", 1.0),
        ("7+ 8- 8-", 0.0),
        ("7+ 7.0+ 8- 8-", 0.5),  # a draw of two
        ("7+ 8- 9-", 1 / 3),
        ("7+ 8- 8.0- 9-", 0.0),  # the same number in two forms
        ("1/2+ 0.5+ 8- 8-", 0.5),  # what the scorer accepts is one candidate
        ("7+ _- _-", 1.0),  # no answer, no vote
        ("_- _-", 0.0),
        ("", 0.0),
    ],
)
def test_majority(ballots, expected):
    assert majority(votes(ballots)) == pytest.approx(expected)


def test_a_wrong_answer_that_reads_right_does_not_vote_for_the_right_one():
    assert majority([("right", False), ("right", False), ("7", True)]) == 0.0


@pytest.mark.parametrize(
    ("one", "other"), [("1,000", "1000.0"), ("$12", "12."), ("X = 3", "x=3"), ("007", "7")]
)
def test_equal_answers_share_a_key(one, other):
    assert answer_key(one) == answer_key(other)


def test_different_answers_have_different_keys():
    keys = {answer_key(answer) for answer in ("1", "1.5", "15", "1/5", "a", "b", "9" * 500)}
    assert len(keys) == 7


def share(values):
    return Measure(np.array([values], float), np.ones((1, len(values))), True)


def intervals(measures, seed=0):
    (problems,) = {measure.total_SP.shape[1] for measure in measures.values()}
    return CrossedBootstrap(1, problems, seed).intervals(measures)


def test_intervals_cover_the_truth():
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        low, high = intervals({"x": share(generator.random(60) < 0.4)}, seed=trial)["x"]
        covered += low <= 0.4 <= high
    assert 87 <= covered <= 99


def test_episodes_of_a_problem_stay_together():
    """Ten samples of a problem that always agree say no more than one sample."""
    values = (np.arange(40) % 2).astype(float)
    one = intervals({"x": share(values)})["x"]
    ten = intervals({"x": Measure(values[None] * 10, np.full((1, 40), 10.0), True)})["x"]
    assert one == pytest.approx(ten)


def test_without_spread_the_interval_is_clopper_pearsons():
    ends = intervals({"none": share([0.0] * 20), "all": share([1.0] * 20)})
    assert ends["none"] == pytest.approx((0.0, 0.1684), abs=1e-4)
    assert ends["all"] == pytest.approx((0.8316, 1.0), abs=1e-4)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([0.0] * 20, [0.0] * 20, (-0.1684, 0.1684)),
        ([1.0, 0.0] * 10, [1.0, 0.0] * 10, (-0.1684, 0.1684)),
        ([0.0] * 20, [1.0] * 20, (1 - 2 * 0.1684, 1.0)),
        ([1.0] * 20, [0.0] * 20, (-1.0, 2 * 0.1684 - 1)),
    ],
)
def test_a_difference_that_is_the_same_everywhere_is_not_certain(before, after, expected):
    ends = CrossedBootstrap(1, 20).differences({"x": share(before)}, {"x": share(after)})["x"]
    assert ends == pytest.approx(expected, abs=1e-4)


def test_one_problem_has_no_interval():
    assert intervals({"x": share([0.5])}) == {}


def test_a_ratio_leaves_out_problems_with_nothing_to_count():
    ratio = Measure(np.array([[0.0, 1.0, 1.0]]), np.array([[0.0, 2.0, 2.0]]), True)
    assert ratio.value == 0.5
    low, high = intervals({"x": ratio})["x"]
    assert low == pytest.approx(0.5) and high == pytest.approx(0.5)


def test_a_difference_is_taken_on_the_same_problems():
    """Problems differ much, the two sides by exactly 0.1 in each: no spread is left."""
    before = np.linspace(0, 0.9, 30)
    sides = {"x": share(before)}, {"x": share(before + 0.1)}
    low, high = CrossedBootstrap(1, 30).differences(*sides)["x"]
    assert low == pytest.approx(0.1) and high == pytest.approx(0.1)
