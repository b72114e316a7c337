"""Texts of single tokens."""

import pytest

from cleaner_env.chat.token_texts import joined, token_text


def test_a_token_that_is_a_part_of_a_character_keeps_its_bytes(tokenizer):
    ids = tokenizer("π → é", add_special_tokens=False)["input_ids"]
    texts = [token_text(tokenizer, number) for number in ids]
    assert any("\udc80" <= letter <= "\udcff" for text in texts for letter in text)
    assert joined(texts) == "π → é"


class SentencePiece:
    """A tokenizer that writes spaces as underscores, drops a leading one, and has byte tokens."""

    def __init__(self, *pieces):
        self.pieces = pieces

    def convert_ids_to_tokens(self, number):
        return self.pieces[number]

    def decode(self, ids, **_):
        pieces = [self.pieces[i] for i in ids]
        data = [bytes([int(p[3:5], 16)]) if p.startswith("<0x") else p.encode() for p in pieces]
        return b"".join(data).decode("utf-8", "replace").replace("_", " ").removeprefix(" ")


def test_a_space_that_begins_a_token_stays():
    tokenizer = SentencePiece("_one", "_two")
    assert [token_text(tokenizer, i) for i in (0, 1)] == [" one", " two"]


def test_byte_tokens_are_bytes():
    tokenizer = SentencePiece("<0xC3>", "<0xA9>")
    assert joined([token_text(tokenizer, i) for i in (0, 1)]) == "é"


@pytest.mark.parametrize("text", ["\udcc3", "a\udcc3b"])
def test_half_a_character_alone_is_shown_as_such(text):
    assert joined([text]) == text.replace("\udcc3", "\ufffd")
