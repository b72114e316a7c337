"""Scripted turns for tests, with one token per character."""

from __future__ import annotations

from collections.abc import Sequence

from cleaner_env import Completion, HermesFormat

STOP = 3
"""Token that ends a turn; every other token is the code of one character."""


def decode(ids: Sequence[int]) -> str:
    """One character a token."""
    return "".join(chr(i) for i in ids)


def sampled(text: str, logprob: float = -1.0) -> Completion:
    """A turn as a policy would have sampled it, with the end of turn."""
    ids = [*map(ord, text), STOP]
    return Completion.from_tokens(ids, [logprob] * len(ids), decode, stop_length=1)


def call(code: str, reasoning: str = "I run it.\n") -> str:
    """The text of a turn that runs a program."""
    return reasoning + HermesFormat().render(code)
