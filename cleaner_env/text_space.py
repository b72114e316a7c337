"""TextSpace: a Gymnasium space of all strings up to a length."""

from __future__ import annotations

from typing import Any

import gymnasium as gym


class TextSpace(gym.Space[str]):
    """Every string of at most ``max_length`` characters, whatever the characters.

    ``gymnasium.spaces.Text`` wants a list of allowed characters; a model may write any.
    """

    def __init__(self, max_length: int = 1_000_000, seed: int | None = None) -> None:
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, not {max_length}")
        self.max_length = max_length
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: text has no fixed-size array form."""
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A short random string of printable ASCII."""
        if mask is not None or probability is not None:
            raise ValueError("TextSpace.sample takes neither a mask nor probabilities")
        length = int(self.np_random.integers(0, min(self.max_length, 32) + 1))
        return "".join(chr(code) for code in self.np_random.integers(32, 127, size=length))

    def contains(self, x: Any) -> bool:
        """True for a ``str`` that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        return f"TextSpace({self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextSpace) and self.max_length == other.max_length

    __hash__ = None  # type: ignore[assignment]
