"""Rates: problems are kept by how often they are solved."""

import pytest
from task_rows import numbered, tasks

from cleaner_env.tasks.load import load_tasks


def test_problems_are_kept_by_their_rate(write):
    rows = [{"prompt": f"{i}?", "answer": i, "info": {"rate": i / 10}} for i in range(11)]
    spec = f"{write('rows.jsonl', rows)}@holdout=0,shuffle=no,rate=info.rate"
    assert [t.answer for t in tasks(f"{spec},min_rate=0.2,max_rate=0.4", "train")] == list("234")
    assert [t.answer for t in tasks(f"{spec},max_rate=0.1", "train")] == list("01")


def test_rates_of_a_file_are_averaged_over_episodes(write):
    path = numbered(write, 3)
    scores = {"0": (0, 0), "1": (0, 1), "2": (1, 1)}
    rows = [
        {"task": {"prompt": f"rows.jsonl {i}?"}, "score": s}
        for i, two in scores.items()
        for s in two
    ]
    rates = write("episodes.jsonl", rows)
    spec = f"{path}@holdout=0,rates={rates},min_rate=0.1,max_rate=0.9"
    assert [task.answer for task in tasks(spec, "train")] == ["1"]


def test_problems_without_a_rate_are_not_dropped_silently(write):
    rates = write("rates.jsonl", [{"prompt": "rows.jsonl 1?", "rate": 0.5}])
    spec = f"{numbered(write, 3)}@holdout=0,rates={rates},min_rate=0.1"
    with pytest.raises(ValueError, match=r"2 problems have no success rate, the first is .*row 1"):
        load_tasks(spec)
    assert len(tasks(f"{spec},unrated=drop", "train")) == 1
    assert len(tasks(f"{spec},unrated=keep", "train")) == 3


def test_a_rate_that_is_none_names_file_and_row(write):
    rates = write("rates.jsonl", [{"prompt": "a", "rate": 1}, {"prompt": "b", "rate": "often"}])
    with pytest.raises(ValueError, match=r"rates\.jsonl, row 2: a success rate lies between 0"):
        load_tasks(f"{numbered(write, 3)}@rates={rates},min_rate=0.1")
