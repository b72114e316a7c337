"""SAAR around environments that have no episode buffer of their own."""

import gymnasium as gym
import pytest

from cleaner_env import Completion, EpisodeKeeper, SAARWrapper
from cleaner_env.formats.protocol import ParsedTurn
from cleaner_env.replay import replay
from cleaner_env.text_space import TextSpace


class Equals:
    """``reasoning = expression``: what follows the sign is the call."""

    def parse(self, text):
        reasoning, sign, expression = text.partition("=")
        call = sign + expression if sign else None
        return ParsedTurn(reasoning, call, expression if sign else None, None, len(reasoning))


class Calculator(gym.Env):
    """Adds numbers up. Remembers each line it was given, the failed ones too."""

    observation_space = action_space = TextSpace()

    def __init__(self, info_of_plain_turns=None):
        self.lines = []
        self.info_of_plain_turns = info_of_plain_turns or {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.lines = []
        return "Count up to three.", {"family": "counting"}

    def step(self, action):
        self.lines.append(str(action))
        expression = action.partition("=")[2]
        if not expression:
            return "Well done.", 1.0, "done" in action, False, self.info_of_plain_turns
        try:
            total = sum(int(word) for word in expression.split("+"))
        except ValueError:
            return "no number", 0.0, False, False, {"call_ok": False, "error_class": "NoNumber"}
        return str(total), 0.0, False, False, {"call_ok": True}


class Undoing(Calculator):
    """The same with a format of its own, and able to undo."""

    format = Equals()

    def retract(self):
        self.lines.pop()


@pytest.fixture
def env():
    env = SAARWrapper(Calculator(), format=Equals())
    env.reset()
    return env


def test_a_failed_call_is_spliced_away(env):
    *_, info = env.step("First =1+two")
    assert info["lookahead"] and info["messages"][-1] == {"role": "tool", "content": "no number"}
    *_, info = env.step("Sorry =1+2")
    assert [message["content"] for message in info["messages"]] == [
        *("Count up to three.", "First =1+2", "3")
    ]
    record = env.episode.rollbacks[0]
    assert (record.decision, record.outcome, record.error_class) == (
        *("shallow", "recovered", "NoNumber"),
    )


def test_the_episode_ends_with_the_environments_reward(env):
    _, reward, terminated, _, info = env.step("done")
    assert (reward, terminated) == (1.0, True)
    assert env.episode.reward == 1.0 and env.episode.terminated
    assert info["messages"][-1] == {"role": "user", "content": "Well done."}
    assert env.episode.task.family == "counting"


def test_a_turn_without_a_call_may_go_on(env):
    *_, info = env.step("hello")
    assert [message["role"] for message in info["messages"]] == ["user", "assistant", "user"]
    assert env.step("=1")[0] == "1"


def test_exhausted_retries_add_the_note(env):
    for _ in range(3):
        env.step("First =x")
    observation, *_, info = env.step("First =x")
    assert observation == info["messages"][-1]["content"]
    assert observation.startswith("no number\nThis approach has failed 4 times.")


def test_a_turn_cut_off_in_the_lookahead_never_reaches_the_environment(env):
    env.step("First =x")
    _, _, terminated, truncated, _ = env.step(Completion("Sec", truncated=True))
    assert (terminated, truncated) == (False, True)
    assert env.unwrapped.lines == ["First =x"]
    with pytest.raises(gym.error.ResetNeeded):
        env.step("=1")


def test_an_environment_that_can_undo_is_asked_to():
    env = SAARWrapper(Undoing())
    env.reset()
    env.step("First =1+two")
    env.step("Sorry =1+2")
    assert env.unwrapped.lines == ["First =1+2"]


def test_a_copy_by_spec_keeps_the_format():
    gym.register("TestCalculator-v0", entry_point=Calculator)
    try:
        copy = SAARWrapper(gym.make("TestCalculator-v0"), format=Equals()).spec.make()
    finally:
        gym.registry.pop("TestCalculator-v0")
    copy.reset()
    copy.step("First =x")
    assert copy.step("Second =1")[0] == "1"
    assert isinstance(copy.env, EpisodeKeeper)


def test_without_a_format_the_remedy_is_named():
    with pytest.raises(TypeError, match=r"SAARWrapper\(env, format=...\)"):
        SAARWrapper(Calculator())


def test_a_format_that_sees_no_call_where_the_environment_does_is_reported():
    env = SAARWrapper(Calculator(info_of_plain_turns={"call_ok": True}), format=Equals())
    env.reset()
    with pytest.raises(ValueError, match=r"Equals finds no call: 'hello'"):
        env.step("hello")


def test_observations_that_are_not_text_are_refused():
    env = SAARWrapper(gym.make("CartPole-v1"), format=Equals())
    with pytest.raises(TypeError, match="CartPoleEnv returns a ndarray; rollback needs"):
        env.reset()
    env.close()


def test_only_environments_are_wrapped():
    with pytest.raises(TypeError, match=r"wraps a gymnasium\.Env, not a str"):
        SAARWrapper("CleanerCodeTool-v0")


def test_its_episodes_cannot_be_replayed_in_a_sandbox(env):
    env.step("=1")
    with pytest.raises(ValueError, match="does not come from a CodeToolEnv"):
        replay(env.episode)
