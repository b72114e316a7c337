"""The progress display."""

import io

from rich.console import Console

from cleaner_rl.runs.progress import CountProgress, TrainingProgress, format_seconds

METRICS = {
    "reward": 0.5,
    "failed_calls": 0.25,
    "first_call_failed": 0.2,
    "triggered": 0.2,
    "tokens_per_second": 1000.0,
    "step_seconds": 2.0,
}


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
