"""Groups: episodes that share a prompt, what sets them apart, and the samples made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from cleaner_env.episode import Episode
from cleaner_env.token_samples import ObservationIds
from cleaner_rl.distributed.ranks import Ranks, partition
from cleaner_rl.grpo.advantages import (
    branched_advantages,
    error_ratio,
    group_advantages,
    resample_on_correct,
)
from cleaner_rl.grpo.credit import episode_samples, splices
from cleaner_rl.grpo.samples import Sample
from cleaner_rl.settings import CreditRule, GraftedTreatment


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the episodes of a group are compared.

    Attributes:
        scaled: whether advantages are divided by the group's standard deviation.
        branch_reward: of each call that a splice took away, which joins the group; None when such
            calls do not (all credit rules but ``branched``).
    """

    scaled: bool = True
    branch_reward: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Episodes that share a prompt, compared with each other.

    Attributes:
        episodes: [G] as they were played.
        rewards: [G] of the episodes, shaping included.
        advantages: [G] of the episodes.
        branch_advantage: of every call that a splice took away; 0 where these do not join.
        comparison: what made advantages of the rewards.
    """

    episodes: list[Episode]
    rewards: list[float]
    advantages: list[float]
    branch_advantage: float
    comparison: Comparison

    @classmethod
    def of(
        cls, episodes: Sequence[Episode], rewards: Sequence[float], comparison: Comparison
    ) -> Group:
        """The episodes with their advantages."""
        scaled, branch_reward, branch_advantage = comparison.scaled, comparison.branch_reward, 0.0
        if branch_reward is None:
            advantages = group_advantages(rewards, scaled=scaled)
        else:
            branches = sum(len(splices(episode)) for episode in episodes)
            advantages, branch_advantage = branched_advantages(
                rewards, branches, branch_reward, scaled
            )
        return cls(list(episodes), list(rewards), advantages, branch_advantage, comparison)

    @property
    def has_signal(self) -> bool:
        """Whether any advantage, that of branches included, is not zero."""
        return any(self.advantages) or self.branch_advantage != 0.0

    def resampled(self, keep: int) -> Group:
        """The group of the ``keep`` episodes that ``resample_on_correct`` chooses."""
        chosen = resample_on_correct(
            [episode.correct for episode in self.episodes],
            [error_ratio(e.stats.failures, e.stats.calls) for e in self.episodes],
            keep,
        )
        episodes = [self.episodes[i] for i in chosen]
        return Group.of(episodes, [self.rewards[i] for i in chosen], self.comparison)


def minibatch_samples(
    groups: Sequence[Group],
    size: int,
    rule: CreditRule,
    grafted: GraftedTreatment,
    prompt_ids: Callable[[Episode], Sequence[int]],
    observation_ids: ObservationIds,
    ranks: Ranks,
) -> list[list[Sample]]:
    """This rank's samples of each minibatch.

    Args:
        groups: of a step.
        size: groups of a minibatch.
        rule: see ``cleaner_rl.grpo.credit``.
        grafted: what becomes of grafted tokens, see ``episode_samples``.
        prompt_ids: ids of an episode's prompt.
        observation_ids: ids of what follows a turn.
        ranks: that share the episodes of a minibatch, each as many tokens as the others.
    """
    numbers = count()
    minibatches = []
    for begin in range(0, len(groups), size):
        members = [
            (episode, advantage, group.branch_advantage, next(numbers))
            for group in groups[begin : begin + size]
            for episode, advantage in zip(group.episodes, group.advantages, strict=True)
        ]
        lengths = [episode.stats.tokens_sampled for episode, *_ in members]
        mine = [members[i] for i in partition(lengths, ranks.size)[ranks.rank]]
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
