"""Resampling on correct: which episodes of a group are kept. R right, w wrong; ratios in tenths."""

import pytest

from cleaner_rl.grpo.advantages import error_ratio, resample_on_correct


def keep(group, ratios, count):
    return resample_on_correct(
        [letter == "R" for letter in group], [int(digit) / 10 for digit in ratios], count
    )


def test_correct_episodes_with_the_lowest_error_ratio_stay():
    assert keep("RRRR", "5020", 2) == [1, 3]


def test_of_equal_ones_the_earlier_stay():
    assert keep("RRRR", "0000", 2) == [0, 1]


def test_wrong_episodes_stay_whatever_their_errors():
    assert keep("wwww", "9009", 2) == [0, 1]


def test_both_kinds_keep_their_shares():
    assert keep("RRRRRRww", "90909090", 4) == [1, 3, 5, 6]


def test_a_single_one_of_a_kind_stays():
    assert keep("RRRRRRRw", "00000009", 2) == [0, 7]
    assert keep("wwwwwwwR", "00000009", 2) == [0, 7]


@pytest.mark.parametrize("size", range(1, 9))
def test_as_many_stay_as_are_wanted(size):
    for right in range(size + 1):
        for count in range(1, 10):
            kept = keep("R" * right + "w" * (size - right), "0" * size, count)
            assert len(kept) == len(set(kept)) == min(count, size)


def test_a_small_group_is_kept_whole():
    assert keep("Rw", "90", 4) == [0, 1]


def test_an_episode_without_a_call_lies_in_the_middle():
    assert error_ratio(0, 3) < error_ratio(0, 0) < error_ratio(3, 3)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="keep must be at least 1"):
        resample_on_correct([True], [0.0], 0)
    with pytest.raises(ValueError, match="got 2 for 1 episodes"):
        resample_on_correct([True], [0.0, 0.0], 1)
