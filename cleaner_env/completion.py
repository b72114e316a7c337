"""Completion: an assistant's text, which may also carry the tokens that were sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The sampled token ids of one assistant turn. They are never encoded again.

    Attributes:
        ids: the tokens, including those that end the turn.
        logprobs: natural log-probability of each token in the context in which it was sampled.
        grafted: for each token, True if a splice brought it here from another context.
        decode: turns ids into text; the text of a turn is ``decode(ids[:len(ids) - stop_length])``.
        stop_length: how many tokens at the end (0 or 1) end the turn without belonging to its text.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    grafted: tuple[bool, ...]
    decode: Decode
    stop_length: int = 0

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.logprobs) == len(self.grafted):
            raise ValueError(
                f"ids, logprobs and grafted must have one entry per token; "
                f"got {len(self.ids)}, {len(self.logprobs)} and {len(self.grafted)}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def as_grafted(self) -> Tokens:
        """The same tokens, moved to another context."""
        return replace(self, grafted=(True,) * len(self.ids))

    @property
    def text(self) -> str:
        """The text of these tokens, without the end of turn."""
        return self.decode(self.ids[: len(self.ids) - self.stop_length])


class Completion(str):
    """An action: the assistant's text, with its tokens if a model sampled it.

    A plain ``str`` is a valid action too; an action without tokens is spliced as text only.

    Attributes:
        tokens: the sampled tokens, or None.
        truncated: True if sampling stopped at a length limit, so that the turn has no end.
        raw: the completion as the agent sent it, if a splice made this one from it; else itself.
        retry: 0 for what the agent sent; k for the result of the k-th splice at a position.
    """

    tokens: Tokens | None
    truncated: bool
    raw: Completion
    retry: int

    def __new__(
        cls,
        text: str,
        tokens: Tokens | None = None,
        *,
        truncated: bool = False,
        raw: Completion | None = None,
        retry: int = 0,
    ) -> Completion:
        self = super().__new__(cls, text)
        self.tokens = tokens
        self.truncated = truncated
        self.raw = self if raw is None else raw
        self.retry = retry
        return self

    @classmethod
    def of(cls, action: str) -> Completion:
        """The action itself if it is a Completion, otherwise one made of it, without tokens."""
        if not isinstance(action, str):
            raise TypeError(f"an action is the text of a turn, a str; got {type(action).__name__}")
        return action if isinstance(action, Completion) else cls(action)

    @classmethod
    def from_tokens(
        cls,
        ids: Sequence[int],
        logprobs: Sequence[float],
        decode: Decode,
        *,
        stop_length: int = 0,
        truncated: bool = False,
    ) -> Completion:
        """A completion as a model sampled it: no token is grafted."""
        tokens = Tokens(tuple(ids), tuple(logprobs), (False,) * len(ids), decode, stop_length)
        return cls(tokens.text, tokens, truncated=truncated)
