"""Answers: found in the text, compared by the task's scorer."""

import pytest

from cleaner_env import ReasoningGymTasks, Task
from cleaner_env.env import CodeToolEnv
from cleaner_env.rewards import (
    Ended,
    FormatTerm,
    OverlongTerm,
    Reward,
    Scorer,
    ScorerError,
    ToolTerm,
    extract_boxed,
    extract_code,
    overlong_penalty,
    score,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{42}", "42"),
        (r"first \boxed{1}, then \boxed{ 2 }.", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{}", ""),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{a\\}", r"a\\"),
        (r"\boxed {42}", "42"),
        ("\\boxed\n{42}", "42"),
        (r"\boxed 42", "42"),
        (r"$\boxed2$", "2"),
        (r"It is \boxed 2.", "2"),
        (r"$\boxed\frac12$", r"\frac12"),
        (r"\boxed\frac{1}{2}, so", r"\frac{1}{2}"),
        (r"\boxed -3", "-3"),
        (r"\boxed(1,2)", "(1,2)"),
        (r"\(\boxed x\)", "x"),
        (r"Put it into a \boxed answer.", None),
        (r"\boxed{42", None),
        (r"\fbox{1}", "1"),
        (r"\framebox{2}", "2"),
        (r"\framebox[2cm][c]{2}", "2"),
        (r"\boxed{1} \fbox{note}", "1"),
        (r"<think>\boxed{1}</think> It is \boxed{2}.", "2"),
        (r"<think>\boxed{1}</think> It is two.", None),
        (r"\boxed{1} or so.</think> \boxed{2}", "2"),
        (r"<think> I try \boxed{1}", None),
        (r"[THINK]\boxed{1}[/THINK]\boxed{2}", "2"),
        (r"<|channel|>analysis<|message|>\boxed{1}<|end|>", None),
        (
            r"<|channel|>analysis<|message|>\boxed{1}<|end|>"
            r"<|start|>assistant<|channel|>final<|message|>\boxed{2}",
            "2",
        ),
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
        (r"\frac{1}{2}", "0.5", 1.0),
        (r"\dfrac12", "1/2", 1.0),
        ("0.333333", "1/3", 1.0),
        ("0.33", "1/3", 0.0),
        ("1e6", "1000000", 1.0),
        (r"50\%", "50", 1.0),
        ("5.", "5", 1.0),
        ("x = 5", "5", 1.0),
        (r"5 \text{ apples}", "5", 1.0),
        ("1 + x", "x+1", 1.0),
        (r"\sqrt{8}", r"2\sqrt{2}", 1.0),
        (r"\{2, 1\}", r"\{1, 2\}", 1.0),
        ("(1, 2]", "(1, 2)", 0.0),
        (r"\text{Ellipse}", r"\text{ellipse}", 1.0),
        (r"\text{3:30 p.m.}", "3:30 p.m.", 1.0),
        ("silent", "listen", 0.0),
        ("on", "No", 0.0),
        ("yx", "xy", 1.0),
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
    assert extract_boxed(r"\boxed=" * 20_000) is None
    assert extract_boxed(r"\boxed " * 20_000) is None


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


def test_any_of_several_references_is_right():
    task = Task("?", "1/2", entry={"answers": ["1/2", "2"]})
    assert [score(answer, task) for answer in ("0.5", "2", "1")] == [1.0, 1.0, 0.0]


def test_exact_is_exact():
    assert score(" a ", Task("?", "a", reward="exact")) == 1.0
    assert score("1.0", Task("?", "1", reward="exact")) == 0.0


CHOICES = ["a decrease in pressure", "an increase in volume", "10 m/s", "both A and B", "E = mc^2"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("C", "C"),
        ("c", "C"),
        ("(C)", "C"),
        ("C.", "C"),
        ("C) 10 m/s", "C"),
        ("C: 10 m/s", "C"),
        ("C - 10 m/s", "C"),
        (r"\text{C: 10 m/s}", "C"),
        (r"\mathrm{(C)}\ 10", "C"),
        (r"\textbf{(C)}", "C"),
        (r"\textsf{C}", "C"),
        (r"\boxed{C}", "C"),
        ("**C**", "C"),
        ("\uff23", "C"),
        ("Option C", "C"),
        ("Choice (C)", "C"),
        ("Answer: C", "C"),
        ("The answer is C", "C"),
        ("The correct option is (C).", "C"),
        ("C is correct", "C"),
        ("I think C", "C"),
        ("10 m/s", "C"),
        (r"10\ \text{m/s}", "C"),
        ("a decrease in pressure", "A"),
        ("a decrease in the pressure", "A"),
        ("both A and B", "D"),
        ("E = mc^2", "E"),
        ("a", "A"),
        ("a decrease of pressure", None),
        ("a larger volume", None),
        ("A and C", None),
        ("(A) and (C)", None),
        ("A) and C)", None),
        ("A, C", None),
        ("A or B", None),
        ("A or C?", None),
        ("A/B", None),
        ("AC", None),
        ("A = 5", None),
        ("E = mc^3", None),
        ("B-field", None),
        ("Both", None),
        ("I do not know", None),
        ("B) 10 m/s", None),
        ("9 m/s", None),
        ("", None),
    ],
)
def test_the_letter_that_an_answer_chooses(answer, letter):
    entry = {"choices": CHOICES}
    tasks = [Task("?", one, reward="choice", entry=entry) for one in "ABCDEFGHI"]
    assert [task.answer for task in tasks if score(answer, task)] == [letter] * bool(letter)


@pytest.mark.parametrize(
    ("answer", "value"),
    [("A", 1.0), ("I think A", 1.0), ("a decrease in pressure", 0.0), ("A and C", 0.0)],
)
def test_a_choice_whose_texts_are_not_known(answer, value):
    assert score(answer, Task("?", "A", reward="choice")) == value


def test_a_choice_is_a_letter():
    with pytest.raises(ValueError, match="must be a letter, not '4 m/s'"):
        score("B", Task("?", "4 m/s", reward="choice"))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nprint(1)\n```", "print(1)"),
        ("```python\nold\n```\nbetter:\n```py\nnew\n```\nDone.", "new"),
        ("```python\nnew\n```\nIt prints:\n```\n1\n```", "new"),
        ("```python\nnew\n```\nRun it:\n```bash\npython a.py\n```", "new"),
        ("It is:\n```\nprint(1)\n```", "print(1)"),
        ("```python\nwhole\n```\n```python\ncut off", "whole"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''"),
        ("~~~python\nprint(1)\n~~~", "print(1)"),
        ("<think>\n```python\nold\n```\n</think>\n```python\nnew\n```", "new"),
        ("<think>\n```python\nold\n```\n</think>\nI give up.", None),
        ("```python\nprint('</think>')\n```", "print('</think>')"),
        ("```bash\nls\n```", None),
        ("Use ```print(1)``` for that.", None),
        ("print(1)", None),
    ],
)
def test_fenced_program(text, code):
    assert extract_code(text) == code


def played(turns, reward=None, **arguments):
    """The environment after an episode of these turns on "What is 6*7?"."""
    env = CodeToolEnv([{"prompt": "What is 6*7?", "answer": "42"}], reward=reward, **arguments)
    env.reset(seed=0)
    for turn in turns:
        env.step(turn)
    return env


BAD_CALL = "<tool_call>no json</tool_call>"
RIGHT, WRONG = r"\boxed{42}", r"\boxed{41}"


@pytest.mark.parametrize(("turn", "value"), [(RIGHT, 1.0), (WRONG, -1.0), ("42", -1.0)])
def test_outcome_values(turn, value):
    assert played([turn], Reward(wrong=-1.0)).episode.reward == value


def test_an_episode_without_an_answer_earns_what_a_wrong_one_does():
    assert played([BAD_CALL], Reward(wrong=-1.0), max_turns=1).episode.reward == -1.0


def test_only_the_last_step_is_rewarded():
    assert played([BAD_CALL], Reward(wrong=-1.0)).episode.reward == 0.0


def test_a_partial_score_earns_its_share_only_when_asked_for():
    half = {"half": Scorer(lambda answer, task, runner: 0.5)}
    task = {"prompt": "?", "answer": "?", "reward": "half"}
    for partial, value in ((False, -1.0), (True, 0.0)):
        env = CodeToolEnv([task], reward=Reward(wrong=-1.0, partial=partial, scorers=half))
        env.reset(seed=0)
        assert env.step(RIGHT)[1] == value


def test_terms_are_added_to_the_outcome():
    terms = (FormatTerm(bonus=0.25, penalty=0.5), ToolTerm(call=0.1, failure=0.3))
    reward = Reward(terms=terms)
    parts = reward.breakdown(Ended(played([BAD_CALL, RIGHT], reward).episode))
    assert parts == pytest.approx({"outcome": 1.0, "format": 0.25, "tool": -0.2})
    assert played(["no box"], reward).episode.reward == -0.5


def test_the_tool_reward_of_the_authors():
    reward = Reward(wrong=-1.0, terms=(ToolTerm(call=0.1, most=0.4, on="wrong"),))
    for calls, value in ((0, -1.0), (2, -0.8), (9, -0.6)):
        assert played([BAD_CALL] * calls + [WRONG], reward).episode.reward == pytest.approx(value)
    assert played([BAD_CALL, RIGHT], reward).episode.reward == 1.0


def test_overlong_answers_earn_less():
    reward = Reward(terms=(OverlongTerm(buffer=10),))
    text = "x" * 5 + RIGHT
    assert played([text], reward, max_length=len(text) + 5).episode.reward == 0.5
    with pytest.raises(ValueError, match="give the environment max_length"):
        played([text], reward)


def test_a_reward_that_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="must be above wrong"):
        Reward(right=0.0, wrong=1.0)
    with pytest.raises(ValueError, match="has a name"):
        Reward(terms=(lambda ended: 1.0,))
    with pytest.raises(ValueError, match="'all', 'right' or 'wrong'"):
        ToolTerm(on="never")


@pytest.mark.parametrize(("length", "penalty"), [(0, 0), (60, 0), (80, 0.5), (100, 1), (200, 1)])
def test_overlong_penalty(length, penalty):
    assert overlong_penalty(length, limit=100, buffer=40) == penalty


def test_no_buffer_no_penalty():
    assert overlong_penalty(1000, limit=100, buffer=0) == 0


def test_a_scorer_that_raises_leaves_the_episode_as_it_was():
    def broken(answer, task, runner):
        raise TypeError(f"cannot compare {answer}")

    reward = Reward(scorers={"exact": Scorer(broken)})
    env = CodeToolEnv([Task("?", "1", reward="exact")], reward=reward)
    env.reset()
    with pytest.raises(ScorerError, match=r"the scorer 'exact' raised TypeError.*cannot compare 1"):
        env.step(r"\boxed{1}")
    assert not env.episode.terminated and env.episode.turns == []
