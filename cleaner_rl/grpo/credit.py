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

from collections.abc import Callable, Sequence
from typing import get_args

from cleaner_env.completion import Tokens
from cleaner_env.episode import Episode, RollbackRecord, Turn
from cleaner_env.splicing import token_index
from cleaner_rl.grpo.samples import Sample
from cleaner_rl.settings import CreditRule, GraftedTreatment

ObservationIds = Callable[[str, int | None], list[int]]
"""Ids between two turns, given the tool's answer and the token that ended the turn before."""


class _Builder:
    """A sample in the making."""

    def __init__(self, prompt_ids: Sequence[int]) -> None:
        self.ids: list[int] = []
        self.mask: list[bool] = []
        self.advantages: list[float] = []
        self.logprobs: list[float] = []
        self.grafted: list[bool] = []
        self.add_environment(prompt_ids)

    def add_environment(self, ids: Sequence[int]) -> None:
        """Tokens that the policy did not sample: never trained."""
        self._extend(ids, [False] * len(ids), 0.0, [0.0] * len(ids), [False] * len(ids))

    def add_turn(
        self, tokens: Tokens, advantage: float, grafted_advantage: float | None, first: int = 0
    ) -> None:
        """A turn of the policy.

        Args:
            tokens: of the turn.
            advantage: of the tokens that were sampled in this context.
            grafted_advantage: of the others; None leaves them out of the loss.
            first: index of the first token that counts.
        """
        for i, (token, logprob, grafted) in enumerate(
            zip(tokens.ids, tokens.logprobs, tokens.grafted, strict=True)
        ):
            value = grafted_advantage if grafted else advantage
            counts = value is not None and i >= first
            self._extend(
                [token],
                [counts],
                value if counts and value is not None else 0.0,
                [logprob if counts else 0.0],
                [grafted],
            )

    def _extend(
        self,
        ids: Sequence[int],
        mask: Sequence[bool],
        advantage: float,
        logprobs: Sequence[float],
        grafted: Sequence[bool],
    ) -> None:
        self.ids += ids
        self.mask += mask
        self.advantages += [advantage] * len(ids)
        self.logprobs += logprobs
        self.grafted += grafted

    def build(self, episode: int | None) -> Sample:
        """The finished sample of that episode."""
        return Sample(
            tuple(self.ids),
            tuple(self.mask),
            tuple(self.advantages),
            tuple(self.logprobs),
            tuple(self.grafted),
            episode,
        )


def context_ids(
    prompt_ids: Sequence[int], turns: Sequence[Turn], observation_ids: ObservationIds
) -> list[int]:
    """What the policy is shown before its next turn: sampled ids as sampled, never re-encoded."""
    ids = list(prompt_ids)
    for turn in turns:
        tokens = _tokens(turn)
        ids += tokens.ids
        if turn.observation is not None:
            ids += observation_ids(turn.observation, stop_id(tokens))
    return ids


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

    Raises:
        ValueError: the rule or the treatment is unknown, or a turn carries no tokens.
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
    builders = [_purified(episode, advantage, grafted_advantage, prompt_ids, observation_ids)]
    if rule == "contrastive" and advantage < 0:
        builders += _replaced_calls(episode, advantage, prompt_ids, observation_ids)
    if rule == "branched" and (advantage or branch_advantage):
        builders += _branches(episode, advantage, branch_advantage, prompt_ids, observation_ids)
    return [builder.build(number) for builder in builders]


def _purified(
    episode: Episode,
    advantage: float,
    grafted_advantage: float | None,
    prompt_ids: Sequence[int],
    observation_ids: ObservationIds,
) -> _Builder:
    builder = _Builder(prompt_ids)
    for turn in episode.turns:
        tokens = _tokens(turn)
        first = len(tokens) if turn.masked else 0
        builder.add_turn(tokens, advantage, grafted_advantage, first=first)
        if turn.observation is not None and turn is not episode.turns[-1]:
            builder.add_environment(observation_ids(turn.observation, stop_id(tokens)))
    return builder


def splices(episode: Episode) -> list[RollbackRecord]:
    """The lookaheads whose answer took the place of a failed call, each of which made a branch."""
    return [record for record in episode.rollbacks if record.purified is not None]


def _replaced_calls(
    episode: Episode,
    advantage: float,
    prompt_ids: Sequence[int],
    observation_ids: ObservationIds,
) -> list[_Builder]:
    """One sample for each first attempt that failed and was spliced away."""
    return [
        _call(record.failed, advantage, context_ids(prompt_ids, history, observation_ids))
        for record in splices(episode)
        if record.retry == 1
        for history in [episode.turns[: record.position]]
    ]


def _branches(
    episode: Episode,
    advantage: float,
    branch_advantage: float,
    prompt_ids: Sequence[int],
    observation_ids: ObservationIds,
) -> list[_Builder]:
    """Calls that were spliced away and lookahead turns, each where it was sampled."""
    builders = []
    records = splices(episode)
    spliced_again = {(record.position, record.retry - 1) for record in records}
    for record in records:
        history = episode.turns[: record.position]
        shown = context_ids(prompt_ids, [*history, record.failed], observation_ids)
        if record.retry == 1:
            clean = context_ids(prompt_ids, history, observation_ids)
            builders.append(_call(record.failed, branch_advantage, clean))
        if (record.position, record.retry) in spliced_again:
            builders.append(_call(record.answer, branch_advantage, shown))
        else:
            builders.append(_Builder(shown))
            builders[-1].add_turn(_tokens(record.answer), advantage, None)
    return builders


def _call(turn: Turn, advantage: float, context: Sequence[int]) -> _Builder:
    """A sample that trains the call of a turn, and not the reasoning before it."""
    tokens = _tokens(turn)
    builder = _Builder(context)
    call = token_index(tokens.ids, turn.parsed.call_start + 1, tokens.decode) - 1
    builder.add_turn(tokens, advantage, None, first=call)
    return builder


def stop_id(tokens: Tokens) -> int | None:
    """The token that ended the turn; None when a length limit did."""
    return tokens.ids[-1] if tokens.stop_length else None


def _tokens(turn: Turn) -> Tokens:
    tokens = turn.completion.tokens
    if tokens is None:
        raise ValueError("the episode was played with plain text; training needs turns with tokens")
    return tokens
