"""Task sources."""

import json

import pytest

from cleaner_env import ReasoningGymTasks, Task, TaskList
from cleaner_env.tasks.families import FAMILIES
from cleaner_env.tasks.load import load_tasks
from cleaner_env.tasks.sources import split_of


def test_at_least_ten_families():
    assert len(FAMILIES) >= 10


def test_index_gives_the_same_task_each_time():
    one, other = ReasoningGymTasks(seed=1), ReasoningGymTasks(seed=1)
    assert [one[i].prompt for i in range(24)] == [other[i].prompt for i in reversed(range(24))][
        ::-1
    ]


def test_another_seed_gives_other_tasks():
    assert ReasoningGymTasks(seed=1)[3].prompt != ReasoningGymTasks(seed=2)[3].prompt


def test_splits_share_no_question():
    train, test = ReasoningGymTasks(split="train"), ReasoningGymTasks(split="test")
    assert all(split_of(train[i].prompt) == "train" for i in range(60))
    assert all(split_of(test[i].prompt) == "test" for i in range(60))


def test_families_take_turns():
    source = ReasoningGymTasks(["gcd", "lcm"])
    assert [source[i].family for i in range(4)] == ["gcd", "lcm", "gcd", "lcm"]


def test_unknown_family_is_refused():
    with pytest.raises(ValueError, match="no_such_family"):
        ReasoningGymTasks(["no_such_family"])


def test_list_repeats():
    source = TaskList([{"prompt": "a", "answer": 1}, Task("b", "2")])
    assert [source[i].answer for i in range(3)] == ["1", "2", "1"]


def test_task_with_an_unknown_key_is_refused():
    with pytest.raises(ValueError, match="unknown: \\['solution'\\]"):
        Task.parse({"prompt": "a", "answer": "b", "solution": "c"})


def test_jsonl_rows_become_tasks_of_one_split_or_the_other(tmp_path):
    path = tmp_path / "tasks.jsonl"
    rows = [{"prompt": f"What is {i}+1?", "answer": i + 1} for i in range(50)]
    path.write_text("\n".join(map(json.dumps, rows)))
    train, test = load_tasks(str(path)), load_tasks(str(path), "test")
    prompts = {train[i].prompt for i in range(50)}, {test[i].prompt for i in range(50)}
    assert prompts[0].isdisjoint(prompts[1])
    assert len(prompts[0] | prompts[1]) == 50


def test_line_separators_inside_text_do_not_end_a_row(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text('\ufeff{"prompt": "a\u2028b", "answer": "1"}\n\n', encoding="utf-8")
    source = load_tasks(f"{path}@holdout=0")
    assert [source[i].prompt for i in range(len(source))] == ["a\u2028b"]


@pytest.mark.parametrize(
    "bad",
    [
        '{"prompt": "x"}',
        "[1]",
        "{",
        '{"prompt": 5, "answer": "1"}',
        '{"prompt": "x", "answer": null}',
        '{"prompt": "x", "answer": "1", "reward": "mathh"}',
    ],
)
def test_bad_row_is_named(tmp_path, bad):
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n' + bad)
    with pytest.raises(ValueError, match=r"tasks\.jsonl, row 2"):
        load_tasks(str(path))


@pytest.mark.parametrize("spec", ["gsm8k", "nowhere.jsonl", "reasoning-gym:no_such_family"])
def test_unknown_source_is_refused(spec):
    with pytest.raises(ValueError):
        load_tasks(spec)
