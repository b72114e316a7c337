"""Credit: which tokens of an episode take its advantage. Episodes in, training samples out.

With rollback, the purified trajectory differs from what the policy sampled. A credit rule decides
which of the two is reinforced, and which is discouraged:

``purified``
    The purified trajectory takes the episode's advantage, sampled and grafted tokens alike
    (CLEANER as published).
``positive``
    The same, but grafted tokens take ``max(advantage, 0)``.
``contrastive``
    A positive advantage goes to the purified trajectory. A negative one goes to the failed calls
    that splices removed, instead of the grafted tokens, which leave the loss. Each such call is an
    extra sample: the history before its turn, then the turn as sampled, with loss on the call
    alone. Calls that failed in a lookahead were not sampled in a clean context and take nothing.
``branched``
    Each splice leaves a branch of the episode, which ends with the removed call. The branch joins
    the group as one more member, rewarded as a failure, and every token is trained in the context
    in which it was sampled: a removed call takes its branch's advantage, and the lookahead turn
    that stayed takes the episode's. So does the purified trajectory; the episode's advantage is now
    measured against the branches too.

docs/credit.md derives what each rule does to the probability of a failed call. ``masked`` turns
(mode ``mask-failed`` of ``SAARWrapper``) take nothing under any rule and do not count in the
denominator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from cleaner_env.episode import Episode, RollbackRecord
from cleaner_env.token_samples import (
    ObservationIds,
    TokenSample,
    call_sample,
    context_ids,
    purified_sample,
    turn_sample,
)
from cleaner_rl.grpo.samples import Sample
from cleaner_rl.settings import CreditRule, GraftedTreatment


def episode_samples(
    episode: Episode,
    advantage: float,
    prompt_ids: Sequence[int],
    observation_ids: ObservationIds,
    rule: CreditRule = "purified",
    grafted: GraftedTreatment = "recompute",
    number: int | None = None,
    branch_advantage: float = 0.0,
) -> list[Sample]:
    """An episode's training samples: the purified trajectory, then extra ones.

    Args:
        episode: a finished episode whose turns carry tokens.
        advantage: the episode's advantage in its group.
        prompt_ids: token ids of the prompt.
        observation_ids: gives the token ids of what follows a turn.
        rule: see the text of this module.
        grafted: ``recompute`` trains grafted tokens (their old log-probabilities are recomputed in
            the purified context before the loss); ``mask`` leaves them out of loss and denominator.
        number: the episode's number among those trained together, carried by its samples.
        branch_advantage: the advantage of removed calls under ``branched``.
    """
    if rule not in get_args(CreditRule):
        raise ValueError(f"unknown credit rule {rule!r}; use one of {get_args(CreditRule)}")
    if grafted not in get_args(GraftedTreatment):
        raise ValueError(f"grafted must be one of {get_args(GraftedTreatment)}, not {grafted!r}")
    grafted_advantage: float | None = advantage
    if grafted == "mask" or (rule == "contrastive" and advantage < 0):
        grafted_advantage = None
    elif rule == "positive":
        grafted_advantage = max(advantage, 0.0)
    purified = purified_sample(episode, prompt_ids, observation_ids)
    extra = _extra(episode, rule, advantage, branch_advantage, prompt_ids, observation_ids)
    return [
        _credited(purified, advantage, grafted_advantage, number),
        *(_credited(tokens, value, None, number) for tokens, value in extra),
    ]


def branches_join(rule: CreditRule) -> bool:
    """Whether the branches that splices leave are members of their group."""
    return rule == "branched"


def splices(episode: Episode) -> list[RollbackRecord]:
    """The lookaheads whose answers replaced a failed call; each of them made a branch."""
    return [record for record in episode.rollbacks if record.purified is not None]


def _extra(
    episode: Episode,
    rule: CreditRule,
    advantage: float,
    branch_advantage: float,
    prompt_ids: Sequence[int],
    observation_ids: ObservationIds,
) -> Iterator[tuple[TokenSample, float]]:
    """Extra samples in the contexts in which they were sampled, with their advantages: calls that
    splices removed and, under ``branched``, the lookahead turns that stayed."""
    branched = branches_join(rule) and (advantage or branch_advantage)
    if not branched and not (rule == "contrastive" and advantage < 0):
        return
    records = splices(episode)
    spliced_again = {(record.position, record.retry - 1) for record in records}
    for record in records:
        history = episode.turns[: record.position]
        if record.retry == 1:
            clean = context_ids(prompt_ids, history, observation_ids)
            yield call_sample(record.failed, clean), branch_advantage if branched else advantage
        if branched:
            shown = context_ids(prompt_ids, [*history, record.failed], observation_ids)
            if (record.position, record.retry) in spliced_again:
                yield call_sample(record.answer, shown), branch_advantage
            else:
                yield turn_sample(record.answer, shown), advantage


def _credited(
    tokens: TokenSample, advantage: float, grafted_advantage: float | None, episode: int | None
) -> Sample:
    """Give each token its advantage; grafted tokens leave the loss if theirs is None."""
    mask = tokens.mask
    if grafted_advantage is None:
        mask = tuple(m and not g for m, g in zip(mask, tokens.grafted, strict=True))
        grafted_advantage = 0.0
    advantages = tuple(grafted_advantage if g else advantage for g in tokens.grafted)
    return Sample(
        ids=tokens.ids,
        mask=mask,
        advantages=tuple(a if m else 0.0 for a, m in zip(advantages, mask, strict=True)),
        sampled_logprobs=tuple(p if m else 0.0 for p, m in zip(tokens.logprobs, mask, strict=True)),
        grafted=tokens.grafted,
        episode=episode,
    )
