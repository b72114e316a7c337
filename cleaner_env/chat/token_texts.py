"""Texts of single tokens, which join to the text of a sequence, parts of characters included."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any


def joined(texts: Sequence[str]) -> str:
    """The text of a sequence, from the ``token_text`` of its tokens."""
    return "".join(texts).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@cache
def token_text(tokenizer: Any, number: int) -> str:
    """The text of a token. Bytes that are only a part of a character are lone surrogates, as
    Python's ``surrogateescape`` writes them, so that the texts of neighbours can be joined."""

    def decode(count: int) -> str:
        return str(
            tokenizer.decode(
                [number] * count, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    text = decode(2)[len(decode(1)) :]  # some decoders drop a space at the very beginning
    if "\ufffd" not in text:
        return text
    piece = tokenizer.convert_ids_to_tokens(number)
    if piece.startswith("<0x"):  # byte tokens of SentencePiece
        return bytes([int(piece[3:5], 16)]).decode("utf-8", "surrogateescape")
    if all(letter in _BYTES for letter in piece):
        return bytes(_BYTES[letter] for letter in piece).decode("utf-8", "surrogateescape")
    return text


def _byte_letters() -> dict[str, int]:
    """The letters in which byte-level BPE writes bytes (GPT-2's table)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    letters = {chr(byte): byte for byte in shown}
    return letters | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_letters()
