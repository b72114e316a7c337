"""Mixtures: several sources as one."""

import pytest
from task_rows import numbered

from cleaner_env import ReasoningGymTasks, Task, TaskList
from cleaner_env.tasks.load import first_tasks, fitting_tasks, load_tasks
from cleaner_env.tasks.mixture import TaskMixture


def test_a_mixture_keeps_its_weights(write):
    spec = [f"{numbered(write, 50, 'a.jsonl')}@weight=3,holdout=0", numbered(write, 50, "b.jsonl")]
    source = load_tasks(spec)
    names = [source[i].prompt[0] for i in range(4000)]
    assert names.count("a") == 3000 and names[:40].count("b") in range(3, 20)
    assert [source[i] for i in (7, 3999, 7)] == [source[7], source[3999], source[7]]


def test_a_mixture_repeats_no_task_before_all_have_come(write):
    source = load_tasks([f"{numbered(write, 30, f'{n}.jsonl')}@holdout=0" for n in "ab"])
    first = first_tasks(source, 60)
    assert len({task.prompt for task in first}) == 60
    assert first_tasks(source, 1000) == first
    assert first_tasks(source, 7) == first[:7]


def test_a_mixture_with_an_endless_source():
    source = TaskMixture([TaskList([Task("a?", "1")]), ReasoningGymTasks(["gcd"])], [1, 1])
    prompts = [task.prompt for task in first_tasks(source, 20)]
    assert prompts.count("a?") == 1 and len(prompts) == 20


def test_a_mixture_picks_from_the_sources_that_have_the_family():
    odd, even = ([Task(f"{n}{i}?", "1", n) for i in range(5)] for n in ("odd", "even"))
    source = TaskMixture([TaskList(odd), TaskList(odd + even)], [1, 1])
    assert {source.select("even")[i].prompt for i in range(20)} == {t.prompt for t in even}
    with pytest.raises(ValueError, match="no task of family 'prime'"):
        source.select("prime")


LISTED = TaskList([Task("x" * length, "1") for length in (1, 9, 2, 9, 3)])


def length(task):
    return len(task.prompt)


def test_tasks_that_are_too_long_are_left_out_in_the_same_order():
    kept, left_out = fitting_tasks(LISTED, length, 3)
    assert ([kept[i].prompt for i in range(4)], left_out) == (["x", "xx", "xxx", "x"], 2)


def test_a_source_whose_tasks_all_fit_stays_itself():
    endless = ReasoningGymTasks(["gcd"])
    for source in (LISTED, endless, TaskMixture([LISTED, endless], [1, 1])):
        assert fitting_tasks(source, length, 1000) == (source, 0)


def test_a_source_of_which_nothing_is_left_is_refused():
    for source in (LISTED, ReasoningGymTasks(["gcd"]), TaskMixture([LISTED, LISTED], [1, 1])):
        with pytest.raises(ValueError, match=r"more than 0 tokens, the shortest \d"):
            fitting_tasks(source, length, 0)


def test_a_mixture_goes_on_without_a_source_of_which_nothing_is_left():
    long = TaskList([Task("long" * 9, "1")])
    kept, left_out = fitting_tasks(TaskMixture([LISTED, long], [1, 9]), length, 9)
    assert (max(length(kept[i]) for i in range(20)), left_out) == (9, 1)
