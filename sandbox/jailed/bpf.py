"""Assembler for classic BPF, the language in which seccomp filters are written."""

from __future__ import annotations

import struct

LOAD, JUMP, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_BITS, RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
NEXT = ""  # the label of the instruction that follows


class Program:
    """Instructions with jumps to labels, which may be set before or after they are used."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, int, str, str]] = []
        self._labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        self._labels[name] = len(self._lines)

    def load(self, offset: int) -> None:
        """Load the 32-bit word at `offset` of the call's data."""
        self._lines.append((LOAD, offset, NEXT, NEXT))

    def give(self, value: int) -> None:
        """End with `value`."""
        self._lines.append((RETURN, value, NEXT, NEXT))

    def jump(self, label: str) -> None:
        self._lines.append((JUMP, 0, label, NEXT))

    def branch(self, kind: int, value: int, then: str = NEXT, otherwise: str = NEXT) -> None:
        """Compare the loaded word with `value`; both labels at most 255 instructions away."""
        self._lines.append((kind, value, then, otherwise))

    def assemble(self) -> bytes:
        """The program as an array of struct sock_filter."""
        return b"".join(self._encode(at, *line) for at, line in enumerate(self._lines))

    def _encode(self, at: int, code: int, value: int, then: str, otherwise: str) -> bytes:
        far, near = self._distance(at, then), self._distance(at, otherwise)
        if code == JUMP:
            far, near, value = 0, 0, far
        return struct.pack("=HBBI", code, far, near, value)  # refuses a jump that is too long

    def _distance(self, at: int, label: str) -> int:
        return self._labels[label] - at - 1 if label else 0
