"""Transcripts are printed in terminals: nothing in them may steer one."""

import pytest

from cleaner_env import CodeToolEnv, SAARWrapper
from cleaner_env.transcripts import printable, transcript


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\u202eb\u2066c", r"a\u202eb\u2066c"),
        ("\x00\x9b31m\ud800", r"\x00\x9b31m\ud800"),
        ("é\t漢 ع 🙂", "é\t漢 ع 🙂"),
    ],
)
def test_what_would_steer_a_terminal_is_escaped_and_letters_stay(line, shown):
    assert printable(line) == shown


def test_a_transcript_is_printable(sandbox):
    task = {"prompt": "\x1b[2J?", "answer": "1"}
    env = SAARWrapper(CodeToolEnv([task], sandbox=sandbox, system_prompt=None))
    env.reset()
    env.step("\x1b[31mred\r\nnext \x9b1m")
    text = transcript(env.episode)
    assert r"  \x1b[2J?" in text and "  \\x1b[31mred\n  next \\x9b1m" in text
    assert all(letter.isprintable() or letter == "\n" for letter in text)
