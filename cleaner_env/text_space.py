"""TextSpace: a Gymnasium space of all strings up to a length."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from ctypes import c_uint32
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector.utils import (
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)

_ASCII, _UNICODE = (32, 127), (0, 0x110000)


class TextSpace(gym.Space[str]):
    """All strings of at most ``max_length`` characters, whatever the characters.

    ``gymnasium.spaces.Text`` needs a list of allowed characters, but a model may write any. Lone
    surrogates, which Python's strings can hold and UTF-8 cannot, are text here as well.
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
        """A short random string: printable ASCII, or characters from all of Unicode."""
        if mask is not None or probability is not None:
            raise ValueError("TextSpace.sample takes neither a mask nor probabilities")
        length = int(self.np_random.integers(0, min(self.max_length, 32) + 1))
        low, high = _ASCII if self.np_random.random() < 0.5 else _UNICODE
        return "".join(chr(code) for code in self.np_random.integers(low, high, size=length))

    def contains(self, x: Any) -> bool:
        """True for a ``str`` that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        return f"TextSpace({self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextSpace) and self.max_length == other.max_length

    __hash__ = None  # type: ignore[assignment]


# gymnasium.vector.AsyncVectorEnv passes observations through shared memory. Each environment has a
# row of 32-bit numbers: the length of the text, then its characters.


class _SharedTexts(Sequence[str]):
    """The current texts in shared memory; a deep copy is a snapshot of them.

    AsyncVectorEnv creates its view of the memory once and expects it to show what is written later.
    An array cannot do that for text, so this sequence does.
    """

    def __init__(self, rows: npt.NDArray[np.uint32]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self)[index]
        row = self._rows[index]
        characters = row[1 : 1 + int(row[0])]
        return characters.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __deepcopy__(self, memo: object) -> tuple[str, ...]:
        return tuple(self)

    def __repr__(self) -> str:
        return repr(tuple(self))


@create_shared_memory.register(TextSpace)
def _create(space: TextSpace, n: int = 1, ctx: Any = multiprocessing) -> Any:
    return ctx.Array(c_uint32, n * (space.max_length + 1))


@read_from_shared_memory.register(TextSpace)
def _read(space: TextSpace, shared_memory: Any, n: int = 1) -> _SharedTexts:
    return _SharedTexts(_numbers(shared_memory).reshape(n, -1))


@write_to_shared_memory.register(TextSpace)
def _write(space: TextSpace, index: int, value: str, shared_memory: Any) -> None:
    if len(value) > space.max_length:
        raise ValueError(
            f"an observation of {len(value)} characters does not fit into {space}; shorten the "
            "task, or make the vector environment with shared_memory=False"
        )
    row = _numbers(shared_memory).reshape(-1, space.max_length + 1)[index]
    codes = np.frombuffer(value.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    row[0] = len(codes)
    row[1 : 1 + len(codes)] = codes


def _numbers(shared_memory: Any) -> npt.NDArray[np.uint32]:
    return np.frombuffer(shared_memory.get_obj(), dtype=np.uint32)
