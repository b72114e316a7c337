"""The progress display."""

import io

import pytest
from rich.console import Console
from scripted import call

from cleaner_env import Completion, Episode, HermesFormat, RollbackRecord, Task, Turn
from cleaner_env.transcripts import in_one_line
from cleaner_rl.runs.progress import CountProgress, TrainingProgress, format_seconds

METRICS = {
    "reward": 0.5,
    "failed_calls": 0.25,
    "first_call_failed": 0.2,
    "triggered": 0.2,
    "tokens_per_second": 1000.0,
    "step_seconds": 2.0,
}


def parse_turn(program):
    text = call(program)
    return Turn(Completion(text), HermesFormat().parse(text), "...", False, "NameError")


def test_plain_lines_where_there_is_no_terminal():
    stream = io.StringIO()
    with TrainingProgress(0, 4, Console(file=stream, width=200)) as progress:
        progress.phase("playing", 1, 2)
        progress.step(1, METRICS)
    assert stream.getvalue().count("\n") == 1
    assert "step 1/4" in stream.getvalue() and "left 0:06" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_terminal_shows_the_phase():
    stream = io.StringIO()
    console = Console(file=stream, width=120, force_terminal=True)
    with TrainingProgress(0, 4, console) as progress:
        progress.phase("playing", 1, 2)
        progress.step(1, METRICS)
    assert "playing 1/2" in stream.getvalue()


def test_terminal_shows_the_last_rollback_in_one_line():
    stream = io.StringIO()
    failed = parse_turn("import maht\nprint(maht.pi)")
    spliced = parse_turn("import math\nprint('\x1b[2J\u202e', math.pi)")
    record = RollbackRecord(0, 1, failed, spliced, "recovered", spliced, "shallow", 0.9)
    episode = Episode(Task("?", "1"), [], rollbacks=[record])
    with TrainingProgress(0, 4, Console(file=stream, width=120, force_terminal=True)) as progress:
        progress.rollback([episode, Episode(Task("?", "1"), [])])
    line = "last rollback: NameError: import maht -> import math  (shallow splice): recovered"
    assert line in stream.getvalue()


@pytest.mark.parametrize(
    ("failed", "spliced", "line"),
    [
        ("a = 1\nb = x", "a = 1\nb = 2", "NameError: b = x -> b = 2  (shallow splice): recovered"),
        ("b = x", "b = 2\nc = 3", "NameError: b = x -> b = 2  (shallow splice): recovered"),
        ("b = x", None, "NameError: b = x: gave_up"),
        ("b = '\x1b\u202e\ud800'", None, "NameError: b = '   ': gave_up"),
    ],
)
def test_a_rollback_in_one_line_shows_what_was_changed(failed, spliced, line):
    turn = parse_turn(failed)
    record = RollbackRecord(0, 1, turn, turn, "gave_up")
    if spliced is not None:
        new = parse_turn(spliced)
        record = RollbackRecord(0, 1, turn, new, "recovered", new, "shallow", 0.9)
    assert in_one_line(record) == line


def test_time_left_counts_this_sessions_steps_only():
    stream = io.StringIO()
    with TrainingProgress(2, 4, Console(file=stream, width=200)) as progress:
        progress.step(3, METRICS)
    assert "left 0:02" in stream.getvalue()


def test_counter_writes_its_last_line_where_there_is_no_terminal():
    stream = io.StringIO()
    with CountProgress("episodes", 3, Console(file=stream)) as progress:
        for done in (1, 2, 3):
            progress.show(done)
    assert stream.getvalue() == "episodes: 3/3, 0:00, left 0:00\n"


def test_counter_shows_what_it_counts_on_a_terminal():
    stream = io.StringIO()
    with CountProgress("episodes", 3, Console(file=stream, width=120, force_terminal=True)) as bar:
        bar.show(2, ", loss 0.5")
        bar.say("a line")
    assert "2/3" in stream.getvalue() and "loss 0.5" in stream.getvalue()


def test_seconds():
    assert [format_seconds(s) for s in (5, 65, 3723)] == ["0:05", "1:05", "1:02:03"]
