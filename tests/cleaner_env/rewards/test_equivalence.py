"""Whether an answer is the reference, written in whatever way."""

import re
import time
from pathlib import Path

import pytest

from cleaner_env.rewards import GRADER, GraderWarning
from cleaner_env.rewards.equivalence import equivalent
from cleaner_env.rewards.grader import Reply

DOCUMENT = (Path(__file__).parents[3] / "docs" / "tasks.md").read_text(encoding="utf-8")
TABLE = Path(__file__).with_name("answers.txt").read_text(encoding="utf-8")


def pairs(kind):
    """The pairs under a heading of the table."""
    section = TABLE.split(f"\n# {kind}\n")[1].split("\n\n")[0]
    for line in section.splitlines():
        verdict, gold, answer = line.split(" | ")
        shown = re.sub(r"\\u([0-9a-f]{4})", lambda code: chr(int(code[1], 16)), answer)
        yield verdict == "right", gold, shown


@pytest.mark.parametrize("kind", re.findall(r"^# (.+)$", TABLE, re.MULTILINE))
def test_answers_of_a_kind(kind):
    table = list(pairs(kind))
    assert table
    verdicts = {(gold, answer): equivalent(gold, answer) for _, gold, answer in table}
    assert verdicts == {(gold, answer): right for right, gold, answer in table}


def documented():
    """The examples in the table of docs/tasks.md: verdict, reference, answer."""
    for row in re.findall(r"^\|.*←.*\|$", DOCUMENT, re.MULTILINE):
        for cell, verdict in zip(row.split("|")[3:5], (True, False), strict=True):
            for examples in filter(None, cell.strip().split("; ")):
                gold, *answers = re.findall("`([^`]+)`", examples)
                yield from ((verdict, gold, answer) for answer in answers)


def test_the_documented_examples_are_decided_so():
    examples = list(documented())
    assert len(examples) > 60
    assert [example for example in examples if equivalent(*example[1:]) != example[0]] == []


def test_the_table_is_large():
    assert len(re.findall(r"^(?:right|wrong) \| ", TABLE, re.MULTILINE)) >= 450


def test_elements_share_the_time_of_one_comparison(monkeypatch):
    tower = "9^{9^{9^{9}}}"
    gold, answer = "1, 2, 3, 4, 5, 6", ", ".join(f"{tower}+{i}" for i in range(6))
    assert equivalent("x+1", "1+x"), "a worker is ready"
    monkeypatch.setattr(GRADER, "seconds", 0.5)
    began = time.monotonic()
    with pytest.warns(GraderWarning):
        assert not equivalent(gold, answer)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "text", ["[" * 1990, "=" * 1990, r"\frac{" * 330, "1 " * 990, r"\text{a} " * 220, "**" * 990]
)
def test_what_makes_no_sense_is_wrong_and_read_in_no_time(text, monkeypatch):
    """math-verify has a deadline of its own, and no part in this."""
    monkeypatch.setattr(GRADER, "ask", lambda *_: Reply(False, (None, None), 0.0))
    began = time.process_time()
    assert not equivalent("5", text)
    assert time.process_time() - began < 2


def test_the_same_text_is_right_however_long():
    assert equivalent("7" * 5000, "7" * 5000)
    assert not equivalent("7" * 5000, "8" * 5000)
