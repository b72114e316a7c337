"""Advantages: how much better an episode is than the others of its group."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from statistics import fmean, pstdev


def group_advantages(
    rewards_G: Sequence[float], epsilon: float = 1e-6, scaled: bool = True
) -> list[float]:
    """Rewards less their mean, over their standard deviation; they sum to zero (GRPO, 2402.03300).

    Args:
        rewards_G: rewards of the episodes that share a prompt, at least two.
        epsilon: added to the standard deviation.
        scaled: False leaves the division out (Dr. GRPO, 2503.20783).

    Returns:
        [G] advantages; exactly zero for all when all rewards are the same, not a number for all
        when a reward is not finite.

    Raises:
        ValueError: the group has fewer than two episodes.
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
    deviation = pstdev(rewards_G)
    return [(reward - mean) / (deviation + epsilon) for reward in rewards_G]


def branched_advantages(
    rewards_G: Sequence[float], branches: int, branch_reward: float, scaled: bool = True
) -> tuple[list[float], float]:
    """Advantages in a group in which episodes left branches behind, see ``cleaner_rl.grpo.credit``.

    Every branch is one more member of the group. Advantages of all members sum to zero.

    Args:
        rewards_G: rewards of the episodes that share a prompt, at least two.
        branches: how many they left behind.
        branch_reward: of each branch.
        scaled: as in ``group_advantages``.

    Returns:
        [G] advantages of the episodes, and the one that all branches have (0 without branches).

    Raises:
        ValueError: the group has fewer than two episodes.
    """
    if len(rewards_G) < 2:
        raise ValueError("a group needs at least two episodes to compare; raise group_size")
    advantages = group_advantages([*rewards_G, *[branch_reward] * branches], scaled=scaled)
    return advantages[: len(rewards_G)], advantages[-1] if branches else 0.0
