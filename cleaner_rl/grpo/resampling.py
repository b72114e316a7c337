"""Resampling on correct: of many episodes on one problem, those that are learned from.

A baseline without rollback: the failed calls of correct episodes are not mended, episodes with many
of them are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

NO_CALL = 0.5
"""Error ratio of an episode without a call: neither rewarded nor punished for it."""


def error_ratio(failures: int, calls: int) -> float:
    """Failed calls among an episode's calls, in [0, 1]; ``NO_CALL`` without a call."""
    return failures / calls if calls else NO_CALL


def resample_on_correct(
    correct_G: Sequence[bool], error_ratios_G: Sequence[float], keep: int
) -> list[int]:
    """Which episodes of a group to keep, in their order.

    Correct and wrong episodes keep their shares of the group, and at least one each where both
    occur. Of the correct ones those with the lowest error ratio stay, of equal ones the earlier; of
    the wrong ones the earliest, which is a uniform choice, since they were sampled alike.

    Args:
        correct_G: for each episode, whether its answer is right.
        error_ratios_G: for each episode, see ``error_ratio``.
        keep: how many to keep; a group that is not larger is kept whole.

    Raises:
        ValueError: ``keep`` is below 1, or the two sequences differ in length.

    Source: GRPO-RoC of rStar2-Agent, arXiv 2508.20722; the shares and the choice of the lowest
    ratio as in its released code (where the paper samples), its penalty on repeated answer tags
    left out.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    if len(correct_G) != len(error_ratios_G):
        raise ValueError(
            f"one error ratio per episode; got {len(error_ratios_G)} for {len(correct_G)} episodes"
        )
    size = len(correct_G)
    if size <= keep:
        return list(range(size))
    right = sorted((i for i in range(size) if correct_G[i]), key=lambda i: error_ratios_G[i])
    wrong = [i for i in range(size) if not correct_G[i]]
    wrong_kept = round(len(wrong) * keep / size)
    if right and wrong and keep > 1:
        wrong_kept = min(max(wrong_kept, 1), keep - 1)
    return sorted(right[: keep - wrong_kept] + wrong[:wrong_kept])
