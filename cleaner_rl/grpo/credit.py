"""Credit: which tokens of an episode take its advantage. Episodes in, training samples out.

With rollback, what the policy sampled and what stands in the purified trajectory differ. A rule
decides who is praised and who is blamed:

``purified``
    The purified trajectory takes the episode's advantage, every sampled or grafted token alike
    (CLEANER as published).
``positive``
    The same, but grafted tokens take ``max(advantage, 0)``.
``contrastive``
    A positive advantage goes to the purified trajectory. With a negative one the grafted tokens
    leave the loss, and each failed call that a splice took away takes the advantage in its place:
    one more sample per call, the history up to its turn and then the turn as it was sampled, with
    loss on the call alone. Calls that failed in a lookahead were not sampled in a clean context
    and take nothing.
``branched``
    A splice makes a branch of the episode, which ended in the call that it took away. The branch
    joins the group as one more member that earned what a failure earns, and every token is trained
    in the context in which it was sampled: each call that was taken away takes its branch's
    advantage, and the lookahead's turn that stayed takes the episode's. The purified trajectory
    takes the episode's advantage as well, which is now measured against the branches too.

docs/credit.md derives what each rule does to the probability of a failed call. Turns that are
``masked`` (mode ``mask-failed`` of ``SAARWrapper``) take nothing under any rule, and do not count
in the denominator.
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
    """The samples that an episode is trained on: the purified trajectory, then extra ones.

    Args:
        episode: a finished episode whose turns carry tokens.
        advantage: of the episode in its group.
        prompt_ids: ids of the prompt.
        observation_ids: ids of what follows a turn.
        rule: see this module's text.
        grafted: ``recompute`` trains grafted tokens (their old log-probabilities are recomputed in
            the purified context before the loss); ``mask`` leaves them out of loss and denominator.
        number: of the episode among those trained together; its samples carry it.
        branch_advantage: under ``branched``, of the calls that a splice took away.
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
    beside = _beside(episode, rule, advantage, branch_advantage, prompt_ids, observation_ids)
    return [
        _credited(purified, advantage, grafted_advantage, number),
        *(_credited(tokens, value, None, number) for tokens, value in beside),
    ]


def splices(episode: Episode) -> list[RollbackRecord]:
    """The lookaheads whose answer took the place of a failed call, each of which made a branch."""
    return [record for record in episode.rollbacks if record.purified is not None]


def _beside(
    episode: Episode,
    rule: CreditRule,
    advantage: float,
    branch_advantage: float,
    prompt_ids: Sequence[int],
    observation_ids: ObservationIds,
) -> Iterator[tuple[TokenSample, float]]:
    """What is trained beside the purified trajectory, where it was sampled, with its advantage:
    calls that were spliced away and, under ``branched``, the turns of lookaheads that stayed."""
    branched = rule == "branched" and (advantage or branch_advantage)
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
    """The tokens with an advantage each; without one for grafted tokens these leave the loss."""
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
