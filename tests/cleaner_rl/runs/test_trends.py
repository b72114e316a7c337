"""Signs that a run is lost."""

import pytest

from cleaner_rl.errors import UserError
from cleaner_rl.runs.trends import STEPS, Trends

GOOD = {
    "episodes": 8,
    "groups_with_signal": 0.5,
    "calls": 1.2,
    "answered": 0.9,
    "trained_tokens": 100,
    "entropy": 0.3,
}
BAD = [
    ("no-signal", {"groups_with_signal": 0.0, "trained_tokens": 0, "entropy": 0.0}),
    ("no-calls", {"calls": 0.0}),
    ("no-answers", {"answered": 0.0}),
    ("low-entropy", {"entropy": 0.001}),
]


def said(rows, **settings):
    lines, trends = [], Trends([])
    for row in rows:
        trends.add(row, lines.append, **settings)
    return lines


@pytest.mark.parametrize(("name", "change"), BAD)
def test_each_sign_is_reported_once_it_has_lasted(name, change):
    bad = {**GOOD, **change}
    assert said([bad] * (STEPS - 1)) == []
    assert said([*[bad] * (STEPS - 1), GOOD, bad]) == []
    (line,) = said([bad] * (2 * STEPS - 1))
    assert line.startswith(f"warning: for {STEPS} steps, ")
    assert len(said([bad] * 2 * STEPS)) == 2


@pytest.mark.parametrize(("name", "change"), BAD)
def test_a_run_may_stop_at_a_sign(name, change):
    rows = [{**GOOD, **change}] * STEPS
    for stop_when in (name, "any"):
        with pytest.raises(UserError, match=rf"for {STEPS} steps, .*--stop-when {stop_when}"):
            said(rows, stop_when=stop_when)
    other = "no-calls" if name != "no-calls" else "no-signal"
    assert len(said(rows, stop_when=other)) == 1


def test_steps_without_episodes_say_nothing():
    nothing = dict.fromkeys(GOOD, 0)
    assert said([nothing] * STEPS) == []


def test_a_resumed_run_remembers():
    bad = {**GOOD, "calls": 0.0}
    lines = []
    Trends([bad] * (STEPS - 1)).add(bad, lines.append)
    assert len(lines) == 1
