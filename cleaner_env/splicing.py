"""Splice: replace a failed call by its correction, in text and in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

from cleaner_env.completion import Completion, Decode, Tokens

_NEAR = 24
"""A cut is first searched within this many characters of the call's start, and only then in all of
the text that the two turns share."""
_MARGIN = 4
"""Extra token boundaries to look at: a decoder that cleans up spaces may write fewer characters for
more tokens, and then the binary search is a few tokens off."""


@dataclass(frozen=True, slots=True)
class Splice:
    """The result of splicing a failed turn and the turn that corrects it.

    ``completion`` is the purified turn. A ``shallow`` splice keeps the failed turn's reasoning and
    takes the new call; a ``deep`` one takes the whole new turn.
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
    """The purified turn from a failed turn (r, c) and its correction (r', c'): CLEANER's splice.

    If ``similarity >= gamma``, the splice is shallow: r and c'. Otherwise it is deep: r' and c'.
    Sampled tokens are never encoded again. A shallow splice joins the two turns' ids at boundaries
    for which the joined ids decode to the purified text; if there are none, it becomes deep.

    Args:
        failed: the failed turn, as in the history.
        failed_call_start: index in its text at which its call begins.
        corrected: the agent's turn in the lookahead.
        corrected_call_start: index in that text at which the call begins.
        similarity: the similarity of the two calls, in [0, 1]; ``gamma`` is the threshold.
        retry: the number of this retry at its position, from 1; recorded in the result.
    """
    if similarity >= gamma:
        text = failed[:failed_call_start] + corrected[corrected_call_start:]
        if failed.tokens is None or corrected.tokens is None:
            return Splice(Completion(text, raw=corrected, retry=retry), "shallow", similarity)
        tokens = _join(failed, failed_call_start, corrected, corrected_call_start, text)
        if tokens is not None:
            merged = Completion(text, tokens, raw=corrected, retry=retry)
            return Splice(merged, "shallow", similarity)
    grafted = None if corrected.tokens is None else corrected.tokens.as_grafted()
    whole = Completion(str(corrected), grafted, raw=corrected, retry=retry)
    return Splice(whole, "deep", similarity)


def _join(
    failed: Completion, failed_start: int, corrected: Completion, corrected_start: int, text: str
) -> Tokens | None:
    """The failed turn's tokens up to its call, then the corrected call's; None if no cut fits.

    Both cuts must lie at the same distance from their call's start, within the text that the two
    turns share around it: elsewhere the joined text would be different. The nearest cuts win. So a
    marker of several tokens, or one whose first token includes the characters before it, does not
    force a deep splice.
    """
    left, right = failed.tokens, corrected.tokens
    assert left is not None and right is not None, "the caller has checked"
    shared = _shared(failed, failed_start, corrected, corrected_start)
    tried = range(0)
    for reach in (range(1), range(max(-_NEAR, shared.start), min(_NEAR, shared.stop)), shared):
        lefts = _boundaries(left, failed_start, reach)
        rights = _boundaries(right, corrected_start, reach)
        for distance in sorted((lefts.keys() & rights.keys()) - set(tried), key=abs):
            for i, j in product(lefts[distance], rights[distance]):
                joined = _joined(left, i, right, j)
                if joined.text == text:
                    return joined
        tried = reach
    return None


def _joined(failed: Tokens, i: int, corrected: Tokens, j: int) -> Tokens:
    """The first ``i`` tokens of the failed turn, then those of the corrected one from ``j`` on."""
    return Tokens(
        failed.ids[:i] + corrected.ids[j:],
        failed.logprobs[:i] + corrected.logprobs[j:],
        failed.grafted[:i] + (True,) * (len(corrected.ids) - j),
        corrected.decode,
        corrected.stop_length,
    )


def _shared(a: str, a_start: int, b: str, b_start: int) -> range:
    """Distances from two places at which cuts give the same text: as far as the texts agree."""
    before = _alike(a[:a_start][::-1], b[:b_start][::-1])
    after = _alike(a[a_start:], b[b_start:])
    return range(-before, after + 1)


def _alike(a: str, b: str) -> int:
    """The length of the longest common prefix."""
    differs = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differs, min(len(a), len(b)))


def _boundaries(tokens: Tokens, start: int, reach: range) -> dict[int, list[int]]:
    """Token boundaries near a place: their distance from it -> the numbers of tokens before them.

    If a character consists of several tokens, several boundaries have the same distance.
    """
    ids = tokens.ids[: len(tokens.ids) - tokens.stop_length]
    first = token_index(ids, start + reach.start, tokens.decode) - _MARGIN
    last = token_index(ids, start + reach.stop, tokens.decode) + _MARGIN
    found: dict[int, list[int]] = {}
    for i in range(max(0, first), min(len(ids), last) + 1):
        distance = len(tokens.decode(ids[:i])) - start
        if distance in reach:
            found.setdefault(distance, []).append(i)
    return found


def token_index(ids: tuple[int, ...], target: int, decode: Decode) -> int:
    """The least number of tokens that decode to at least ``target`` characters (binary search)."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if len(decode(ids[:middle])) < target:
            low = middle + 1
        else:
            high = middle
    return low
