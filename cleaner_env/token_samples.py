"""Token samples: episodes as token ids, with a mask of those that the policy sampled.

Sampled ids are kept exactly; nothing is encoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cleaner_env.completion import Tokens
from cleaner_env.episode import Episode, Turn
from cleaner_env.splicing import token_index

ObservationIds = Callable[[str, int | None], list[int]]
"""Gives the ids between two turns, from the tool's answer and the token that ended the turn."""


@dataclass(frozen=True, slots=True)
class TokenSample:
    """A token sequence, some of whose tokens may be trained.

    Attributes:
        ids: token ids, prompt first.
        mask: True where the policy sampled the token and it may be trained.
        logprobs: log-probability of each token when it was sampled; 0 where the mask is False.
        grafted: True where a splice brought the token here from another context.
    """

    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    logprobs: tuple[float, ...]
    grafted: tuple[bool, ...]

    def __add__(self, other: TokenSample) -> TokenSample:
        return TokenSample(
            self.ids + other.ids,
            self.mask + other.mask,
            self.logprobs + other.logprobs,
            self.grafted + other.grafted,
        )


def purified_sample(
    episode: Episode, prompt_ids: Sequence[int], observation_ids: ObservationIds
) -> TokenSample:
    """The purified trajectory; ``masked`` turns are context only."""
    sample = _untrained(prompt_ids)
    for turn in episode.turns:
        tokens = _tokens(turn)
        sample += _sampled(tokens, first=len(tokens) if turn.masked else 0)
        if turn.observation is not None and turn is not episode.turns[-1]:
            sample += _untrained(observation_ids(turn.observation, stop_id(tokens)))
    return sample


def turn_sample(turn: Turn, context: Sequence[int]) -> TokenSample:
    """A turn after the context in which it was sampled."""
    return _untrained(context) + _sampled(_tokens(turn))


def call_sample(turn: Turn, context: Sequence[int]) -> TokenSample:
    """Like ``turn_sample``, but the reasoning before the call is context too."""
    tokens = _tokens(turn)
    first = token_index(tokens.ids, turn.parsed.call_start + 1, tokens.decode) - 1
    return _untrained(context) + _sampled(tokens, first)


def context_ids(
    prompt_ids: Sequence[int], turns: Sequence[Turn], observation_ids: ObservationIds
) -> list[int]:
    """The ids that the policy is shown before its next turn."""
    ids = list(prompt_ids)
    for turn in turns:
        tokens = _tokens(turn)
        ids += tokens.ids
        if turn.observation is not None:
            ids += observation_ids(turn.observation, stop_id(tokens))
    return ids


def observations(episode: Episode) -> list[tuple[str, int | None]]:
    """The tool's answers of an episode that any sample may contain, each once, with the token that
    ended the turn before it: the arguments of ``ObservationIds``."""
    failed = (record.failed for record in episode.rollbacks)
    pairs = {
        (turn.observation, stop_id(turn.completion.tokens)): None
        for turn in (*episode.turns, *failed)
        if turn.observation is not None and turn.completion.tokens is not None
    }
    return list(pairs)


def stop_id(tokens: Tokens) -> int | None:
    """The token that ended the turn; None if a length limit did."""
    return tokens.ids[-1] if tokens.stop_length else None


def _untrained(ids: Sequence[int]) -> TokenSample:
    """Tokens of a prompt, a tool's answer, or another context."""
    nothing = (False,) * len(ids)
    return TokenSample(tuple(ids), nothing, (0.0,) * len(ids), nothing)


def _sampled(tokens: Tokens, first: int = 0) -> TokenSample:
    """A turn of the policy, which may be trained from its ``first`` token on."""
    mask = tuple(i >= first for i in range(len(tokens)))
    logprobs = (0.0,) * first + tokens.logprobs[first:]
    return TokenSample(tokens.ids, mask, logprobs, tokens.grafted)


def _tokens(turn: Turn) -> Tokens:
    tokens = turn.completion.tokens
    if tokens is None:
        raise ValueError("the episode was played with plain text; training needs turns with tokens")
    return tokens
