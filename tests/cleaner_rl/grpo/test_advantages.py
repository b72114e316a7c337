"""Group-relative advantages."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleaner_rl.grpo.advantages import branched_advantages, group_advantages


def test_better_than_the_mean_is_positive():
    # Their deviation is 1/2: the sample's, as torch.std's.
    assert group_advantages([1, 0, 0, 0], epsilon=0) == pytest.approx([1.5, -0.5, -0.5, -0.5])


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=32))
def test_they_sum_to_zero(rewards):
    assert sum(group_advantages(rewards)) == pytest.approx(0, abs=1e-6 * len(rewards))


@given(st.floats(-10, 10), st.integers(2, 8))
def test_equal_rewards_give_exactly_zero(reward, size):
    assert group_advantages([reward] * size) == [0.0] * size


def test_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least two"):
        group_advantages([1.0])


def test_unscaled_advantages_are_distances_from_the_mean():
    assert group_advantages([1, 0, 0, 0], scaled=False) == [0.75, -0.25, -0.25, -0.25]


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("rewards", [[0.0, float("nan")], [float("nan"), 0.0], [1.0, float("inf")]])
def test_a_broken_reward_breaks_the_whole_group(rewards, scaled):
    # An advantage that looks sound would hide it; the loss leaves these out and counts them.
    assert not any(map(math.isfinite, group_advantages(rewards, scaled=scaled)))


def test_a_branch_is_one_more_member_of_the_group():
    assert branched_advantages([1, 0], 2, 0.0, scaled=False) == ([0.75, -0.25], -0.25)


def test_branches_give_a_signal_where_all_episodes_are_right():
    advantages, branch = branched_advantages([1, 1, 1], 1, 0.0, scaled=False)
    assert advantages == [0.25] * 3 and branch == -0.75


def test_without_branches_advantages_are_the_group_s_own():
    assert branched_advantages([1, 0, 0], 0, 0.0) == (group_advantages([1, 0, 0]), 0.0)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=16), st.integers(1, 9))
def test_advantages_of_episodes_and_branches_sum_to_zero(rewards, branches):
    advantages, branch = branched_advantages(rewards, branches, -1.0)
    assert sum(advantages) + branches * branch == pytest.approx(0, abs=1e-4)


def test_a_group_of_one_is_refused_however_many_branches_it_has():
    with pytest.raises(ValueError, match="at least two"):
        branched_advantages([1.0], 3, 0.0)
