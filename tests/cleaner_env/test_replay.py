"""Replay: the purified episode's programs run again."""

import pytest
from scripted import call

from cleaner_env import CodeToolEnv, Episode, SAARWrapper
from cleaner_env.replay import replay

TASK = {"prompt": "What is 6*7?", "answer": "42"}


@pytest.fixture
def play(sandbox):
    def play(*actions, **env) -> Episode:
        wrapped = SAARWrapper(CodeToolEnv([TASK], sandbox=sandbox, **env))
        wrapped.reset()
        for action in actions:
            wrapped.step(action)
        return wrapped.episode

    return play


def test_a_purified_episode_replays_without_its_failed_calls(play, sandbox):
    episode = play(call("print(6 * x)"), call("print(6 * 7)"), r"\boxed{42}")
    assert replay(episode, sandbox) is None


def test_failures_and_notes_replay_too(play, sandbox):
    bug, malformed = call("print(x)"), "<tool_call>{}</tool_call>"
    episode = play(bug, bug, bug, bug, malformed)
    assert episode.turns[0].note and episode.turns[1].error_class == "ToolCallError"
    assert replay(episode, sandbox) is None


def test_long_output_is_cut_as_it_was(play, sandbox):
    episode = play(call("print('x' * 500)"), max_observation_chars=100)
    assert "left out" in episode.turns[0].observation
    assert replay(episode, sandbox) is None


def test_the_first_difference_is_reported(play, sandbox):
    episode = play(call("print(1)"), call("print(2)"), call("print(3)"))
    for turn in episode.turns[1:]:
        object.__setattr__(turn, "observation", "5")
    difference = replay(episode, sandbox)
    assert (difference.position, difference.code) == (1, "print(2)")
    assert (difference.expected, difference.observed) == ("5", "2")
    assert difference.repeatable


def test_a_program_that_never_answers_the_same_is_reported_so(play, sandbox):
    episode = play(call("import random\nprint(random.random())"))
    assert not replay(episode, sandbox).repeatable


def test_without_a_sandbox_replay_brings_its_own(play):
    assert replay(play(call("print(1)"))) is None
