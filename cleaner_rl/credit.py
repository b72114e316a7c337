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

Turns that are ``masked`` (mode ``mask-failed`` of ``SAARWrapper``) take nothing under any rule, and
do not count in the denominator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from cleaner_env.completion import Tokens
from cleaner_env.episode import Episode, Turn
from cleaner_env.splicing import token_index
from cleaner_rl.samples import Sample

CreditRule = Literal["purified", "positive", "contrastive"]
GraftedTreatment = Literal["recompute", "mask"]
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


def _replaced_calls(
    episode: Episode,
    advantage: float,
    prompt_ids: Sequence[int],
    observation_ids: ObservationIds,
) -> list[_Builder]:
    """One sample for each first attempt that failed and was spliced away."""
    builders = []
    for record in episode.rollbacks:
        if record.retry != 1 or record.purified is None:
            continue
        tokens = _tokens(record.failed)
        history = episode.turns[: record.position]
        builder = _Builder(context_ids(prompt_ids, history, observation_ids))
        call = token_index(tokens.ids, record.failed.parsed.call_start + 1, tokens.decode) - 1
        builder.add_turn(tokens, advantage, None, first=call)
        builders.append(builder)
    return builders


def stop_id(tokens: Tokens) -> int | None:
    """The token that ended the turn; None when a length limit did."""
    return tokens.ids[-1] if tokens.stop_length else None


def _tokens(turn: Turn) -> Tokens:
    tokens = turn.completion.tokens
    if tokens is None:
        raise ValueError("the episode was played with plain text; training needs turns with tokens")
    return tokens
