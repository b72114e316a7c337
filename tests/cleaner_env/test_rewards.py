"""Answers: found in the text, compared by the task's scorer."""

import pytest

from cleaner_env import ReasoningGymTasks, Task
from cleaner_env.rewards import extract_boxed, overlong_penalty, score


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{42}", "42"),
        (r"first \boxed{1}, then \boxed{ 2 }.", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{}", ""),
        ("42", None),
    ],
)
def test_boxed_answer(text, answer):
    assert extract_boxed(text) == answer


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("42", "42.0", 1.0),
        ("1/2", "0.5", 1.0),
        ("1,000", "1000", 1.0),
        ("$5$", "5", 1.0),
        ("-3", "3", 0.0),
        ("1/0", "0", 0.0),
        ("(1, 2)", "(1,2)", 1.0),
        ("Blue", "blue", 1.0),
        ("", "0", 0.0),
    ],
)
def test_math_score(answer, reference, value):
    assert score(answer, Task("?", reference)) == value


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("12", "1, 2"), ("1 2", "12"), ("1e999999999", "5"), ("9" * 100_000, "5")],
)
def test_what_is_no_number_is_not_taken_for_one(answer, reference):
    assert score(answer, Task("?", reference)) == 0.0


def test_endless_boxes_are_read_in_no_time():
    assert extract_boxed(r"\boxed{" * 20_000) is None
    assert extract_boxed(r"\boxed{" * 20_000 + "1}") == "1"


def test_unknown_family_is_an_error_and_no_wrong_answer():
    with pytest.raises(ValueError, match="no family 'no_such_family'"):
        score("1", Task("?", "1", family="no_such_family", reward="reasoning_gym"))


def test_reasoning_gym_scores_its_own_answers():
    source = ReasoningGymTasks()
    for index in range(24):
        task = source[index]
        assert score(task.answer, task) == 1.0
        assert score("no", task) < 1.0


def test_unknown_reward_is_refused():
    with pytest.raises(ValueError, match="unknown reward 'judge'"):
        score("1", Task("?", "1", reward="judge"))


@pytest.mark.parametrize(("length", "penalty"), [(0, 0), (60, 0), (80, 0.5), (100, 1), (200, 1)])
def test_overlong_penalty(length, penalty):
    assert overlong_penalty(length, limit=100, buffer=40) == penalty


def test_no_buffer_no_penalty():
    assert overlong_penalty(1000, limit=100, buffer=0) == 0
