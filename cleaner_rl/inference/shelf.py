"""Shelf: what is cached of conversations that nobody decodes now, as far as there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from cleaner_rl.inference.kv_cache import KV


@dataclass(frozen=True, slots=True)
class Cached:
    """Keys and values of the first tokens of a conversation.

    Attributes:
        ids: the tokens.
        kv: as many cells.
    """

    ids: Sequence[int]
    kv: KV


class Shelf:
    """Cached conversations; those that lay here longest are dropped first.

    Attributes:
        tokens: cells that are kept in all.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._items: OrderedDict[Hashable, Cached] = OrderedDict()

    def lay(self, key: Hashable, cached: Cached) -> None:
        """Keep what is cached of a conversation, in place of what was kept of it before."""
        self.remove(key)
        self._items[key] = cached
        self.tokens += len(cached.ids)

    def look(self, key: Hashable) -> Cached | None:
        """What is cached of a conversation; this makes it the last to be dropped."""
        if key in self._items:
            self._items.move_to_end(key)
        return self._items.get(key)

    def remove(self, key: Hashable) -> None:
        """Forget a conversation, if it is here."""
        cached = self._items.pop(key, None)
        if cached is not None:
            self.tokens -= len(cached.ids)

    def trim(self, tokens: int) -> None:
        """Drop conversations until no more than that many cells are kept."""
        while self._items and self.tokens > tokens:
            self.remove(next(iter(self._items)))

    def clear(self) -> None:
        """Forget everything."""
        self._items.clear()
        self.tokens = 0


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    for length, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return length
    return min(len(first), len(second))
