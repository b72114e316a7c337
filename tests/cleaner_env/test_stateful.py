"""Stateful episodes: programs share variables, and a turn that is rolled back leaves no trace."""

import pytest
from scripted import call

from cleaner_env import CodeToolEnv, SAARWrapper, SandboxError
from cleaner_env.formats import make_format
from cleaner_env.formats.protocol import system_prompt
from cleaner_env.replay import replay

TASK = {"prompt": "What is 6*7?", "answer": "42"}


@pytest.fixture
def env(sandbox):
    if sandbox.tier != "full":
        pytest.skip(f"needs tier full; this machine gives {sandbox.tier}")
    env = CodeToolEnv([TASK], sandbox=sandbox, stateful=True)
    yield env
    env.close()


def play(env, *turns):
    env.reset(seed=0)
    return [env.step(turn)[0] for turn in turns]


def test_variables_stay_until_the_episode_ends(env):
    assert play(env, call("x = 6"), call("print(x * 7)"))[1] == "42"
    assert "NameError" in play(env, call("print(x)"))[0]


def test_without_the_option_programs_share_nothing(sandbox):
    env = CodeToolEnv([TASK], sandbox=sandbox)
    assert "NameError" in play(env, call("x = 6"), call("print(x * 7)"))[1]


def test_a_rolled_back_turn_leaves_no_trace(env):
    saar = SAARWrapper(env)
    answers = play(
        saar,
        call("x = [1]"),
        call("x.append(2); x.apend(3)"),
        call("x.append(3); print(x)"),
        "\\boxed{42}",
    )
    assert answers[2] == "[1, 3]"
    assert [turn.code for turn in saar.episode.turns[:2]] == ["x = [1]", "x.append(3); print(x)"]


def test_a_rolled_back_turn_of_several_calls_leaves_no_trace(sandbox, env):
    format = make_format("hermes", max_calls=3)
    env = CodeToolEnv([TASK], sandbox=sandbox, stateful=True, format=format)
    saar = SAARWrapper(env)
    answers = play(
        saar,
        format.render("x = 1"),
        format.render("x += 10", "open('f', 'w')", "1 / 0"),
        format.render("x += 1", "import os; print(x, os.listdir())"),
    )
    assert answers[2].endswith("2 []")
    env.close()


def test_a_failed_turn_that_stays_keeps_the_calls_before_the_failure(sandbox, env):
    format = make_format("hermes", max_calls=2)
    env = CodeToolEnv([TASK], sandbox=sandbox, stateful=True, format=format)
    assert play(env, format.render("x = 5", "1 / 0"), format.render("print(x)"))[1].endswith("5")
    env.close()


def test_replay_runs_the_purified_episode_in_a_session_of_its_own(env, sandbox):
    saar = SAARWrapper(env)
    play(saar, call("x = 6"), call("print(y)"), call("print(x * 7)"), "\\boxed{42}")
    assert saar.episode.stateful and replay(saar.episode, sandbox) is None
    saar.episode.turns[1] = saar.episode.turns[1].with_note("")
    saar.episode.turns.pop(0)
    difference = replay(saar.episode, sandbox)
    assert difference is not None and difference.position == 0 and difference.repeatable
    assert "NameError" in difference.observed


def test_the_agent_is_told():
    format = make_format("hermes")
    assert "share no state" in system_prompt(format)
    assert "Variables stay" in system_prompt(format, stateful=True)


def test_where_there_are_no_sessions_the_step_says_so(env, sandbox, monkeypatch):
    monkeypatch.setattr(sandbox, "tier", "no-proc")
    env.reset(seed=0)
    with pytest.raises(SandboxError, match='sessions need tier "full"'):
        env.step(call("x = 1"))
    assert env.episode.turns == []


def test_no_session_outlives_its_episode(env, sandbox):
    play(env, call("x = 1"), "\\boxed{42}")
    assert not any(worker.sessions for worker in sandbox._live)
