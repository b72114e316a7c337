"""The difference of two modes: on the same problems, or none."""

from cleaner_rl.eval.config import EvalConfig
from cleaner_rl.eval.evaluate import Evaluation, difference
from cleaner_rl.eval.summary import summarize

COUNTS = (
    *("turns", "calls", "failures", "first_attempt_calls", "first_attempt_successes"),
    *("triggered", "recovered", "exhausted", "gave_up", "cut_off", "shallow", "deep"),
    *("tokens_sampled", "tokens_discarded"),
)


def row(problem, right, prompt="?"):
    episode = {
        **{"raw_turns": [{"ok": True}], "stats": dict.fromkeys(COUNTS, 1), "answer": "1"},
        **{"task": {"family": "f", "prompt": prompt}, "score": float(right)},
        **{"terminated": True, "truncated": False},
    }
    place = {"index": problem, "problem": problem, "sample": 0, "session": 0, "at": 1.0}
    return {**place, "seconds": 1.0, "episode": episode}


def rows(left_out=None, **more):
    """Problem p is right if and only if p is even."""
    return [row(p, p % 2 == 0, **more) for p in range(20) if p != left_out]


def test_modes_with_the_same_problems_are_compared():
    assert difference(Evaluation.of(rows(), 1), Evaluation.of(rows(), 1))["accuracy"][0] == 0.0


def test_as_many_but_other_problems_are_not_paired():
    off, on = Evaluation.of(rows(left_out=0), 1), Evaluation.of(rows(left_out=19), 1)
    assert off.tasks == on.tasks and difference(off, on) == {}


def test_other_tasks_under_the_same_numbers_are_not_paired():
    off, on = Evaluation.of(rows(), 1), Evaluation.of(rows(prompt="another"), 1)
    assert difference(off, on) == {}


def test_a_summary_says_why_it_has_no_difference():
    summary = summarize(EvalConfig(), {"off": rows(left_out=0), "on": rows(left_out=19)}, 20)
    assert summary["difference"] == {}
    assert any("different problems" in warning for warning in summary["warnings"])
