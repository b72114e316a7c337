"""Rewards of one's own: found by name, and every mistake in them is named."""

import json

import pytest

from cleaner_env import CodeToolEnv, Task
from cleaner_env.rewards import Reward, ScorerError, TermError, load_reward

JUDGE = "def judge(answer, task):\n    return float(answer == task.answer[::-1])\n"
TASK = Task("Reverse it.", "abc", reward="exact")
ANSWER = r"\boxed{cba}"


def test_a_function_judges_every_task(reward_module):
    reward = load_reward(f"{reward_module(JUDGE)}:judge", Reward(wrong=-1.0))
    assert (reward.judge(ANSWER, TASK, None), reward.wrong) == (("cba", 1.0), -1.0)
    assert reward.judge(r"\boxed{abc}", TASK, None) == ("abc", 0.0)
    assert reward.judge("no box", TASK, None) == (None, 0.0)


def test_a_scorer_finds_answers_itself(reward_module):
    module = reward_module(
        "from cleaner_env.rewards import Scorer\n"
        "last = Scorer(lambda answer, task, runner: answer == 'b', extract=lambda t: t.split()[-1])"
    )
    assert load_reward(f"{module}:last").judge("a b", TASK, None) == ("b", 1.0)


def test_a_whole_reward_is_taken_as_it_is(reward_module):
    module = reward_module("from cleaner_env.rewards import Reward\nwhole = Reward(right=2.0)")
    assert load_reward(f"{module}:whole", Reward(wrong=-1.0)) == Reward(right=2.0)


def test_the_environment_takes_a_name(reward_module):
    env = CodeToolEnv([TASK], reward=f"{reward_module(JUDGE)}:judge")
    env.reset()
    assert env.step(ANSWER)[1] == 1.0


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        (JUDGE, "{}", "names no reward: write MODULE:OBJECT"),
        (JUDGE, "{}:jury", r"has no object 'jury'"),
        (JUDGE, "no_such_module:judge", r"no module 'no_such_module' in /.* or among"),
        (JUDGE, "json.nothing:judge", r"no module 'json.nothing' in"),
        ("import no_such_package", "{}:judge", "needs a package that is missing: no_such_package"),
        ("judge = ", "{}:judge", "cannot be imported: SyntaxError"),
        ("1 / 0", "{}:judge", "cannot be imported: ZeroDivisionError"),
        ("judge = 1.0", "{}:judge", "is 1.0; it must be a Reward, a Scorer, or a function of two"),
        ("class judge: pass", "{}:judge", "must be a Reward, a Scorer, or a function of two"),
        ("def judge(answer): return 1.0", "{}:judge", "too many positional arguments"),
        ("def judge(a, b, c): return 1.0", "{}:judge", "missing a required argument: 'c'"),
    ],
)
def test_what_is_no_reward_is_named(reward_module, source, name, message):
    with pytest.raises(ValueError, match=message):
        load_reward(name.format(reward_module(source)))


@pytest.mark.parametrize("value", ["None", "'1'", "1.5", "-0.1", "float('nan')", "[1.0]"])
def test_a_score_that_is_no_number_from_0_to_1_is_refused(reward_module, value):
    module = reward_module(f"def judge(answer, task): return {value}")
    reward = load_reward(f"{module}:judge")
    with pytest.raises(ScorerError, match=rf"scorer {module}:judge returned .* a number from 0"):
        reward.judge(ANSWER, TASK, None)


def test_a_function_that_raises_is_named(reward_module):
    module = reward_module("def judge(answer, task): return answer.nothing")
    with pytest.raises(ScorerError, match=rf"scorer {module}:judge raised AttributeError"):
        load_reward(f"{module}:judge").judge(ANSWER, TASK, None)


@pytest.mark.parametrize("value", ["None", "float('inf')", "1 / 0"])
def test_a_term_that_gives_no_number_ends_the_episode_without_a_reward(reward_module, value):
    module = reward_module(
        "from cleaner_env.rewards import Reward\n"
        "class Mine:\n"
        "    name = 'mine'\n"
        f"    def __call__(self, ended): return {value}\n"
        "reward = Reward(terms=(Mine(),))"
    )
    env = CodeToolEnv([TASK], reward=f"{module}:reward")
    env.reset()
    with pytest.raises(TermError, match=r"the term 'mine' (returned|raised)"):
        env.step(ANSWER)
    assert (env.episode.terminated, env.episode.reward) == (True, 0.0)


def test_rows_may_name_a_scorer_of_ones_own(reward_module, tmp_path):
    row = {"prompt": "Reverse it.", "answer": "abc", "reward": "reversed"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    module = reward_module(
        "from cleaner_env.rewards import Reward, Scorer\n"
        "judge = Scorer(lambda answer, task, runner: answer == task.answer[::-1])\n"
        "reward = Reward(scorers={'reversed': judge})"
    )
    env = CodeToolEnv("rows.jsonl@holdout=0", reward=f"{module}:reward")
    env.reset()
    assert env.step(ANSWER)[1] == 1.0
    with pytest.raises(ValueError, match="unknown reward 'reversed'"):
        CodeToolEnv("rows.jsonl@holdout=0").reset()
