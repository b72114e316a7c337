"""What the tests of all packages share: a sandbox, and turns written character by character."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from cleaner_env import Completion, HermesFormat, Sandbox

STOP = 3
"""Token that ends a turn in tests; every other token is the code of one character."""


def decode(ids: Sequence[int]) -> str:
    """One character a token."""
    return "".join(chr(i) for i in ids)


def sampled(text: str, logprob: float = -1.0) -> Completion:
    """A turn as a policy would have sampled it, one token a character, and the end of turn."""
    ids = [*map(ord, text), STOP]
    return Completion.from_tokens(ids, [logprob] * len(ids), decode, stop_length=1)


def call(code: str, reasoning: str = "I run it.\n") -> str:
    """The text of a turn that runs a program."""
    return reasoning + HermesFormat().render(code)


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """One sandbox for the whole session."""
    with Sandbox(workers=1) as shared:
        yield shared
