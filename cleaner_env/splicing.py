"""Splice: put a corrected call in the place of a failed one, in text and in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

from cleaner_env.completion import Completion, Decode, Tokens

_NEAR = 24
"""Characters around a call's start among which a cut is looked for before it is looked for in all
of the text that two turns share."""
_MARGIN = 4
"""Boundaries looked at beyond the wanted ones: a decoder that tidies up spaces may write fewer
characters for more tokens, and then the search for a place is a few tokens off."""


@dataclass(frozen=True, slots=True)
class Splice:
    """What became of a failed turn and the turn that corrects it.

    ``completion`` is the purified turn. A ``shallow`` splice keeps the failed turn's reasoning and
    takes the new call, a ``deep`` one takes the new turn whole.
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
        similarity: of the two calls, in [0, 1]; ``gamma`` is the threshold.
        retry: which retry at its position this is, from 1; kept on the result.
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
    """The failed turn's tokens up to its call, then the corrected call's; None without a cut.

    The two cuts must lie equally far from their call's start, within the text that the two turns
    share around it: elsewhere the joined text would be another one. The nearest ones win. So a
    marker that is several tokens, or whose first token has swallowed the characters before it, does
    not force a deep splice.
    """
    left, right = failed.tokens, corrected.tokens
    assert left is not None and right is not None, "the caller has looked"
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
    """The first ``i`` tokens of one turn and those from ``j`` on of the other."""
    return Tokens(
        failed.ids[:i] + corrected.ids[j:],
        failed.logprobs[:i] + corrected.logprobs[j:],
        failed.grafted[:i] + (True,) * (len(corrected.ids) - j),
        corrected.decode,
        corrected.stop_length,
    )


def _shared(a: str, a_start: int, b: str, b_start: int) -> range:
    """Distances from two places at which a cut leaves the same text: the text they share there."""
    before = _alike(a[:a_start][::-1], b[:b_start][::-1])
    after = _alike(a[a_start:], b[b_start:])
    return range(-before, after + 1)


def _alike(a: str, b: str) -> int:
    """How many characters two texts have in common at their beginning."""
    differs = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differs, min(len(a), len(b)))


def _boundaries(tokens: Tokens, start: int, reach: range) -> dict[int, list[int]]:
    """Token boundaries near a place, as numbers of tokens by their distance from it.

    Several boundaries have the same distance where a character is made of several tokens.
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
    """How many tokens it takes to write at least ``target`` characters (binary search)."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if len(decode(ids[:middle])) < target:
            low = middle + 1
        else:
            high = middle
    return low
