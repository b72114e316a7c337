"""Advantages: how much better an episode is than the others in its group."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from statistics import fmean, stdev


def group_advantages(
    rewards_G: Sequence[float], epsilon: float = 1e-6, scaled: bool = True
) -> list[float]:
    """[G] rewards minus their mean, divided by their standard deviation, the sample's (GRPO,
    2402.03300).

    They sum to zero. All are exactly zero if all rewards are equal, and NaN if a reward is not
    finite.

    Args:
        rewards_G: rewards of the episodes that share a prompt, at least two.
        epsilon: added to the standard deviation.
        scaled: False omits the division (Dr. GRPO, 2503.20783).
    """
    if len(rewards_G) < 2:
        raise ValueError("a group needs at least two episodes to compare; raise group_size")
    if not all(map(isfinite, rewards_G)):
        return [nan] * len(rewards_G)
    if all(reward == rewards_G[0] for reward in rewards_G):
        return [0.0] * len(rewards_G)
    mean = fmean(rewards_G)
    if not scaled:
        return [reward - mean for reward in rewards_G]
    deviation = stdev(rewards_G)
    return [(reward - mean) / (deviation + epsilon) for reward in rewards_G]


def branched_advantages(
    rewards_G: Sequence[float], branches: int, branch_reward: float, scaled: bool = True
) -> tuple[list[float], float]:
    """[G] advantages of the episodes of a group with branches, and the advantage of every branch.

    Each branch is one more member of the group (see ``cleaner_rl.grpo.credit``), so advantages sum
    to zero over all members. Without branches, the second value is 0.
    """
    if len(rewards_G) < 2:
        raise ValueError("a group needs at least two episodes to compare; raise group_size")
    advantages = group_advantages([*rewards_G, *[branch_reward] * branches], scaled=scaled)
    return advantages[: len(rewards_G)], advantages[-1] if branches else 0.0


NO_CALL = 0.5
"""Error ratio of an episode without calls: neither rewarded nor punished for that."""


def error_ratio(failures: int, calls: int) -> float:
    """Share of an episode's calls that failed, in [0, 1]; ``NO_CALL`` if it has none."""
    return failures / calls if calls else NO_CALL


def resample_on_correct(
    correct_G: Sequence[bool], error_ratios_G: Sequence[float], keep: int
) -> list[int]:
    """Sorted indices of the ``keep`` episodes of a group to learn from; all if it has no more.

    Correct and wrong episodes keep their shares of the group, with at least one of each where both
    occur. The correct ones with the lowest error ratios stay, earlier ones first among equals. Of
    the wrong ones the earliest stay: a uniform choice, since all are sampled alike.

    Source: GRPO-RoC of rStar2-Agent, arXiv 2508.20722. The shares and the choice of the lowest
    ratios follow its released code (the paper samples instead); its penalty on repeated answer tags
    is left out.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    if len(correct_G) != len(error_ratios_G):
        raise ValueError(f"error ratios: got {len(error_ratios_G)} for {len(correct_G)} episodes")
    size = len(correct_G)
    if size <= keep:
        return list(range(size))
    right = sorted((i for i in range(size) if correct_G[i]), key=lambda i: error_ratios_G[i])
    wrong = [i for i in range(size) if not correct_G[i]]
    wrong_kept = round(len(wrong) * keep / size)
    if right and wrong and keep > 1:
        wrong_kept = min(max(wrong_kept, 1), keep - 1)
    return sorted(right[: keep - wrong_kept] + wrong[:wrong_kept])
