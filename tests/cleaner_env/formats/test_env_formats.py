"""Formats in the environment: what it tells the agent, and what it does with several calls."""

import gymnasium as gym
import pytest

from cleaner_env import FORMATS, CodeToolEnv, HermesFormat, SAARWrapper, Task, make_format
from cleaner_env.formats.protocol import system_prompt
from cleaner_env.observation import format_observation, format_observations
from sandbox import Result, Status

TASK = {"prompt": "?", "answer": "1"}


class Words:
    """Runs programs that are words, and remembers them."""

    def __init__(self):
        self.ran = []

    def run(self, code):
        self.ran.append(code)
        if code.startswith("ok"):
            return Result(Status.OK, stdout=f"{code}\n")
        return Result(Status.ERROR, traceback=f"WordError: {code}\n", error_class="WordError")


def make(**arguments):
    env = CodeToolEnv([TASK], sandbox=Words(), **arguments)
    env.reset(seed=0)
    return env


@pytest.mark.parametrize("name", FORMATS)
def test_the_system_prompt_shows_a_call_in_the_format(name):
    system = make(format=name).episode.messages[0]["content"]
    if name != "harmony":  # its marks are special tokens, which do not belong in a prompt
        assert make_format(name).render("print(6 * 7)") in system
    assert "code" in system
    assert "One call per turn." in system


def test_hermes_is_the_default():
    assert make().episode.messages[0]["content"] == system_prompt(HermesFormat())


def test_the_system_prompt_tells_how_many_calls_a_turn_may_have():
    system = make(max_calls=3).episode.messages[0]["content"]
    assert "At most 3 calls per turn" in system


def test_an_own_system_prompt_is_sent_as_it_is():
    assert make(format="fenced", system_prompt="Go.").episode.messages[0]["content"] == "Go."


@pytest.mark.parametrize("name", FORMATS)
def test_a_call_runs_in_every_format(name):
    observation, _, _, _, info = make(format=name).step(make_format(name).render("ok"))
    assert (observation, info["call_ok"]) == ("ok", True)


def test_several_calls_run_in_order_and_each_output_is_shown():
    env = make(max_calls=3)
    observation, *_ = env.step(HermesFormat().render("ok 1", "ok 2"))
    assert observation == "[call 1 of 2]\nok 1\n[call 2 of 2]\nok 2"


def test_the_first_failing_call_ends_the_turn():
    env = make(max_calls=3)
    observation, _, _, _, info = env.step(HermesFormat().render("ok", "bad", "ok again"))
    assert env._sandbox.ran == ["ok", "bad"]
    assert (info["call_ok"], info["error_class"]) == (False, "WordError")
    assert observation == (
        "[call 1 of 3]\nok\n[call 2 of 3]\nWordError: bad\n"
        "[call 3 of 3]\nnot run, because call 2 failed"
    )


def test_nothing_runs_when_one_of_the_calls_is_malformed():
    env = make(max_calls=3)
    observation, _, _, _, info = env.step(HermesFormat().render("ok") + "<tool_call>{}</tool_call>")
    assert env._sandbox.ran == []
    assert info["error_class"] == "ToolCallError"
    assert observation.startswith("ToolCallError: call 2 of 2: ")


def test_several_outputs_share_the_space():
    results = [Result(Status.OK, stdout="X" * 500), Result(Status.OK, stdout="Y" * 500)]
    text = format_observations(results, 2, max_chars=100)
    assert text.count("X") == text.count("Y") == 50


def test_one_call_is_shown_without_a_heading():
    assert format_observations([Result(Status.OK, stdout="a")], 1) == "a"


def test_a_failed_turn_of_several_calls_is_spliced_whole():
    env = SAARWrapper(make(max_calls=3), gamma=0.0)
    env.reset(seed=0)
    env.step("First.\n" + HermesFormat().render("ok 1", "bad"))
    env.step("Sorry.\n" + HermesFormat().render("ok 1", "ok 2"))
    (turn,) = env.episode.turns
    assert turn.text == "First.\n" + HermesFormat().render("ok 1", "ok 2")
    assert turn.parsed.codes == ("ok 1", "ok 2")
    assert turn.observation == "[call 1 of 2]\nok 1\n[call 2 of 2]\nok 2"


def test_a_repaired_call_runs_only_when_asked_for():
    turn = HermesFormat().render("ok").replace("}}", "}")
    assert make().step(turn)[4]["error_class"] == "ToolCallError"
    assert make(strict=False).step(turn)[0] == "ok"


def test_a_format_may_be_given_as_an_object():
    env = make(format=make_format("fenced", max_calls=2))
    assert env.step("```python\nok\n```\n```python\nok\n```")[4]["call_ok"]


def test_a_format_object_has_its_arguments_already():
    with pytest.raises(ValueError, match=r"HermesFormat\(\.\.\.\) instead"):
        make(format=HermesFormat(), max_calls=2)


def test_an_unknown_format_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown tool-call format 'json'; use one of: hermes"):
        gym.make("cleaner_env:CleanerCodeTool-v0", format="json")


def test_fenced_calls_and_fenced_answers_are_not_to_be_confused(sandbox):
    tests = {"tests": [{"input": "3\n", "output": "6\n"}]}
    task = Task("Double it.", "", reward="code", entry=tests)
    env = CodeToolEnv([task], sandbox=sandbox, format="fenced")
    with pytest.raises(ValueError, match="use another format"):
        env.reset()


def test_what_a_program_that_ended_well_wrote_to_stderr_is_shown():
    def shown(stdout="", stderr="", max_chars=4096):
        return format_observation(Result(Status.OK, stdout=stdout, stderr=stderr), max_chars)

    assert shown("a\n", "b\n") == "a\n[stderr]\nb"
    assert shown(stderr="WARNING:root:b\n") == "[stderr]\nWARNING:root:b"
    assert shown("a\n", "\n") == "a" and shown("a") == "a" and shown().startswith("(no output")
    text = shown("X" * 500, "Y" * 500, 110)
    assert text.count("X") == text.count("Y") == 50 and text.index("[stderr]") < text.index("Y")
    text = shown("X" * 20, "Y" * 500, 110)
    assert (text.count("X"), text.count("Y")) == (20, 80)
    text = shown("X" * 500, "Y" * 20, 110)
    assert (text.count("X"), text.count("Y")) == (80, 20)


def test_a_failed_program_shows_its_traceback_alone():
    failed = Result(Status.ERROR, stdout="a\n", stderr="log\n", traceback="ValueError: no\n")
    assert format_observation(failed) == "a\nValueError: no"
