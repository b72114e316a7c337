"""Trace: what a training step records with its logged episodes, for the page that shows them.

An episode's line in ``episodes/step-000010.jsonl`` has it as ``training``; docs/viewer.md has the
format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

from torch import Tensor

from cleaner_env.chat.token_texts import token_text
from cleaner_env.episode import Episode
from cleaner_env.episode_io import episode_to_dict
from cleaner_env.token_samples import observations
from cleaner_rl.config import TrainConfig
from cleaner_rl.grpo.groups import Group
from cleaner_rl.grpo.loss import LOSSES
from cleaner_rl.grpo.samples import Sample
from cleaner_rl.learner.packing import Pack
from cleaner_rl.rollout.rollout import Rollout
from cleaner_rl.view.tokens import credit_of, nats, spread

Values = dict[int, list[dict[str, Any]]]
"""What was recorded of the samples of each episode, by its number among those trained together."""


@dataclass(slots=True)
class StepTrace:
    """Collects what one step records.

    Attributes:
        played: the groups to log, by their numbers in the step.
        trained: by the identity of an episode: its number among those trained together, and its
            advantage.
    """

    played: dict[int, Group]
    trained: dict[int, tuple[int, float]]
    _numbers: set[int] = field(default_factory=set)
    _seen: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, played: Sequence[Group], kept: Sequence[Group], count: int) -> StepTrace:
        """A trace of some groups of a step, see ``logged_groups``.

        ``kept`` are the groups that are trained, of the same episodes or of some of them.
        """
        members = [
            (id(episode), advantage)
            for group in kept
            for episode, advantage in zip(group.episodes, group.advantages, strict=True)
        ]
        trained = {key: (place, value) for place, (key, value) in enumerate(members)}
        chosen = {place: played[place] for place in logged_groups(played, count)}
        logged = [id(episode) for group in chosen.values() for episode in group.episodes]
        numbers = {trained[key][0] for key in logged if key in trained}
        return cls(chosen, trained, numbers)

    def see(self, row: Pack, logprobs_T: Tensor, entropies_T: Tensor) -> None:
        """Keep the values of a row that an update has just computed, see ``Updater.update``."""
        for sample, *values in row.by_sample(logprobs_T, entropies_T):
            if sample.episode in self._numbers:
                self._seen[id(sample)] = values[0].detach(), values[1].detach()

    def values(self, minibatches: Sequence[Sequence[Sample]]) -> Values:
        """What this rank has seen of its samples; their order is that of the update."""
        found: Values = {}
        for sample in (sample for samples in minibatches for sample in samples):
            if sample.episode is not None and sample.episode in self._numbers:
                seen = self._seen.get(id(sample))
                found.setdefault(sample.episode, []).append(_recorded(sample, seen))
        return found

    def rows(
        self, step: int, rollout: Rollout, config: TrainConfig, values: Sequence[Values]
    ) -> Iterator[dict[str, Any]]:
        """The lines of the episode file, given the values of all ranks."""
        known = {key: samples for part in values for key, samples in part.items()}
        for place, group in self.played.items():
            trained = [self.trained.get(id(episode)) for episode in group.episodes]
            shared = {
                "step": step,
                "group": place,
                "rewards": group.rewards,
                "advantages": [None if one is None else one[1] for one in trained],
                "branch_advantage": group.branch_advantage,
                "branch_reward": config.episode.failure_reward,
                "scaled": LOSSES[config.update.loss].scaled,
                "rule": config.credit,
                "grafted": config.grafted,
            }
            for member, (episode, one) in enumerate(zip(group.episodes, trained, strict=True)):
                samples = [] if one is None else known.get(one[0], [])
                training = {**shared, "member": member, **_ids(episode, rollout)}
                yield {**episode_to_dict(episode), "training": training | {"samples": samples}}


def logged_groups(groups: Sequence[Group], count: int) -> list[int]:
    """The numbers of the groups to log: the first ones, until they have ``count`` episodes, and
    those whose rewards differ most and least, the earlier one among equals; none for 0."""
    if count == 0 or not groups:
        return []
    chosen, logged = set[int](), 0
    for place, group in enumerate(groups):
        if logged >= count:
            break
        chosen.add(place)
        logged += len(group.episodes)
    spreads = [spread(group.rewards) for group in groups]
    chosen |= {spreads.index(max(spreads)), spreads.index(min(spreads))}
    return sorted(chosen)


def _recorded(sample: Sample, seen: tuple[Tensor, Tensor] | None) -> dict[str, Any]:
    recorded: dict[str, Any] = {"credit": credit_of(sample), "logprobs": None, "entropies": None}
    for name, values_T in zip(("logprobs", "entropies"), seen or (), strict=False):
        recorded[name] = nats(list(compress(values_T.tolist(), sample.mask)))
    return recorded


def _ids(episode: Episode, rollout: Rollout) -> dict[str, Any]:
    """The ids of what the policy did not sample, and the texts of all ids."""
    prompt_ids = rollout.prompt_ids(episode)
    shown = [list(rollout.observation_ids(*one)) for one in observations(episode)]
    sampled = (turn.completion.tokens for turn in (*episode.turns, *episode.raw_turns))
    parts = [prompt_ids, *shown, *(tokens.ids for tokens in sampled if tokens is not None)]
    known = sorted({one for ids in parts for one in ids})
    return {
        "prompt_ids": list(prompt_ids),
        "observation_ids": shown,
        "texts": {one: token_text(rollout.policy.tokenizer, one) for one in known},
    }
