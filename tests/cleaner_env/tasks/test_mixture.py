"""Mixtures: several sources as one."""

import pytest
from task_rows import numbered

from cleaner_env import ReasoningGymTasks, Task, TaskList
from cleaner_env.tasks.load import first_tasks, load_tasks
from cleaner_env.tasks.mixture import TaskMixture, fitting_tasks


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


LISTED = TaskList([Task(str(n), "1") for n in range(6)])


def test_tasks_that_do_not_fit_are_left_out_in_the_same_order():
    kept, left_out = fitting_tasks(LISTED, lambda task: int(task.prompt) % 2 == 0)
    assert ([kept[i].prompt for i in range(4)], left_out) == (["0", "2", "4", "0"], 3)


def test_a_source_whose_tasks_all_fit_stays_itself():
    mixture = TaskMixture([LISTED, ReasoningGymTasks(["gcd"])], [1, 1])
    assert fitting_tasks(LISTED, lambda _: True) == (LISTED, 0)
    assert fitting_tasks(mixture, lambda _: True) == (mixture, 0)


def test_nothing_may_be_left_of_a_source():
    assert fitting_tasks(LISTED, lambda _: False) == (None, 6)
    assert fitting_tasks(TaskMixture([LISTED, LISTED], [1, 1]), lambda _: False) == (None, 12)


def test_a_mixture_goes_on_without_a_source_of_which_nothing_is_left():
    other = TaskList([Task("right", "1")])
    kept, left_out = fitting_tasks(
        TaskMixture([LISTED, other], [9, 1]), lambda task: task.prompt == "right"
    )
    assert ({kept[i].prompt for i in range(20)}, left_out) == ({"right"}, 6)
