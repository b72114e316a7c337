"""Splice: put a corrected call in the place of a failed one, in text and in tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cleaner_env.completion import Completion, Decode, Tokens

_WINDOW = 8
"""How many token boundaries on each side of a call's start are tried as the place to cut."""


@dataclass(frozen=True, slots=True)
class Splice:
    """What became of a failed turn and the turn that corrects it.

    Attributes:
        completion: the purified turn.
        decision: ``shallow`` keeps the failed turn's reasoning and takes the new call, ``deep``
            takes the new turn whole.
        similarity: of the failed call and the new one.
    """

    completion: Completion
    decision: Literal["shallow", "deep"]
    similarity: float


def splice(
    failed: Completion,
    failed_call_start: int,
    corrected: Completion,
    corrected_call_start: int,
    *,
    similarity: float,
    gamma: float,
    retry: int = 1,
) -> Splice:
    """The purified turn of a failed turn (r, c) and its correction (r', c'); CLEANER's splice.

    Shallow when ``similarity >= gamma``: r and c'. Otherwise deep: r' and c'. Sampled tokens are
    never encoded again: a shallow splice joins the two turns' ids at boundaries for which the
    joined ids decode to the purified text, and where there are none it becomes deep.

    Args:
        failed: the failed turn, as it stands in the history.
        failed_call_start: index in its text at which its call begins.
        corrected: the turn that the agent gave in the lookahead.
        corrected_call_start: index in that text at which the call begins.
        similarity: of the two calls, in [0, 1].
        gamma: the threshold.
        retry: which retry at its position this is, from 1; kept on the result.
    """
    if similarity >= gamma:
        text = failed[:failed_call_start] + corrected[corrected_call_start:]
        if failed.tokens is None or corrected.tokens is None:
            merged = Completion(text, raw=corrected, retry=retry)
            return Splice(merged, "shallow", similarity)
        tokens = _join(
            failed.tokens, failed_call_start, corrected.tokens, corrected_call_start, text
        )
        if tokens is not None:
            merged = Completion(text, tokens, raw=corrected, retry=retry)
            return Splice(merged, "shallow", similarity)
    grafted = None if corrected.tokens is None else corrected.tokens.as_grafted()
    whole = Completion(str(corrected), grafted, raw=corrected, retry=retry)
    return Splice(whole, "deep", similarity)


def _join(
    failed: Tokens, failed_start: int, corrected: Tokens, corrected_start: int, text: str
) -> Tokens | None:
    """The failed turn's tokens up to its call, then the corrected call's; None without a cut.

    The two cuts must lie equally far from their call's start. The nearest ones win, so that a
    marker whose first token has swallowed the character before it does not force a deep splice.
    """
    left = {offset - failed_start: i for i, offset in _boundaries(failed, failed_start)}
    right = {offset - corrected_start: j for j, offset in _boundaries(corrected, corrected_start)}
    for distance in sorted(left.keys() & right.keys(), key=abs):
        i, j = left[distance], right[distance]
        joined = Tokens(
            failed.ids[:i] + corrected.ids[j:],
            failed.logprobs[:i] + corrected.logprobs[j:],
            failed.grafted[:i] + (True,) * (len(corrected.ids) - j),
            corrected.decode,
            corrected.stop_length,
        )
        if joined.text == text:
            return joined
    return None


def _boundaries(tokens: Tokens, target: int) -> Iterator[tuple[int, int]]:
    """Token boundaries around a place in the text, as (number of tokens, length of their text)."""
    last = len(tokens.ids) - tokens.stop_length
    middle = token_index(tokens.ids[:last], target, tokens.decode)
    for i in range(max(0, middle - _WINDOW), min(last, middle + _WINDOW) + 1):
        yield i, len(tokens.decode(tokens.ids[:i]))


def token_index(ids: tuple[int, ...], target: int, decode: Decode) -> int:
    """How many tokens it takes to write at least ``target`` characters (binary search)."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if len(decode(ids[:middle])) < target:
            low = middle + 1
        else:
            high = middle
    return low
