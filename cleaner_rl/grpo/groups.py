"""Groups: episodes that share a prompt, their advantages, and the samples made from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from cleaner_env.episode import Episode
from cleaner_env.token_samples import ObservationIds
from cleaner_rl.distributed.ranks import Ranks, partition
from cleaner_rl.grpo.advantages import branched_advantages
from cleaner_rl.grpo.credit import episode_samples, splices
from cleaner_rl.grpo.samples import Sample
from cleaner_rl.settings import CreditRule, GraftedTreatment


@dataclass(frozen=True, slots=True)
class Group:
    """Episodes that share a prompt, compared with each other.

    Attributes:
        episodes: [G] episodes as they were played.
        rewards: [G] their rewards, shaping included.
        advantages: [G] their advantages.
        branch_advantage: advantage of every call that a splice removed; 0 if these do not join.
    """

    episodes: list[Episode]
    rewards: list[float]
    advantages: list[float]
    branch_advantage: float = 0.0

    @classmethod
    def of(
        cls,
        episodes: list[Episode],
        rewards: list[float],
        scaled: bool = True,
        branch_reward: float | None = None,
    ) -> Group:
        """Compute the advantages of at least two episodes; ``scaled`` ones are divided by the
        group's standard deviation. ``branch_reward`` is the reward of each call that a splice
        removed, if these join the group (the credit rule ``branched``); otherwise None."""
        join = branch_reward is not None
        branches = sum(len(splices(episode)) for episode in episodes) if join else 0
        shared = branched_advantages(rewards, branches, branch_reward or 0.0, scaled)
        return cls(episodes, rewards, *shared)

    @property
    def has_signal(self) -> bool:
        """Whether any advantage is not zero, that of branches included."""
        return any(self.advantages) or self.branch_advantage != 0.0


def minibatch_samples(
    groups: Sequence[Group],
    size: int,
    rule: CreditRule,
    grafted: GraftedTreatment,
    prompt_ids: Callable[[Episode], Sequence[int]],
    observation_ids: ObservationIds,
    ranks: Ranks,
) -> list[list[Sample]]:
    """This rank's samples of each minibatch, that is of ``size`` groups; see ``episode_samples``.

    The ranks share a minibatch so that each has about as many tokens to compute: whole groups,
    whose prompt is computed once, or episodes if there are more ranks than groups.
    """
    numbers = count()
    minibatches = []
    for begin in range(0, len(groups), size):
        batch = groups[begin : begin + size]
        units = []
        for group in batch:
            members = [
                (episode, advantage, group.branch_advantage, next(numbers))
                for episode, advantage in zip(group.episodes, group.advantages, strict=True)
            ]
            whole = len(batch) >= ranks.size
            units += [members] if whole else [[member] for member in members]
        lengths = [
            len(prompt_ids(unit[0][0])) + sum(e.stats.tokens_sampled for e, *_ in unit)
            for unit in units
        ]
        mine = [member for i in partition(lengths, ranks.size)[ranks.rank] for member in units[i]]
        minibatches.append(
            [
                sample
                for episode, advantage, of_branches, number in mine
                for sample in episode_samples(
                    episode,
                    advantage,
                    prompt_ids(episode),
                    observation_ids,
                    rule,
                    grafted,
                    number,
                    of_branches,
                )
            ]
        )
    return minibatches
