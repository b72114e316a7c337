"""CodeToolEnv as a Gymnasium environment."""

import subprocess
import sys
import warnings

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from scripted import call

from cleaner_env import CodeToolEnv, Completion, Limits, SandboxError

TASK = {"prompt": "What is 6*7?", "answer": "42"}
ANSWER = r"The answer is \boxed{42}."


@pytest.fixture
def env(sandbox):
    env = CodeToolEnv([TASK], sandbox=sandbox, render_mode="ansi")
    env.reset(seed=0)
    return env


def test_made_by_id_without_importing_the_package_first():
    program = (
        "import gymnasium as gym; env = gym.make('cleaner_env:CleanerCodeTool-v0');"
        "import sys; assert 'torch' not in sys.modules; print(env.spec.id)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "CleanerCodeTool-v0", done.stderr


def test_passes_gymnasiums_checker():
    env = gym.make("cleaner_env:CleanerCodeTool-v0", tasks=[TASK], render_mode="ansi")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*not recommended.*")
        check_env(env.unwrapped, skip_render_check=False)
    env.close()


def test_tool_call_returns_its_output(env):
    observation, reward, terminated, truncated, info = env.step(call("print(6 * 7)"))
    assert (observation, reward, terminated, truncated) == ("42", 0.0, False, False)
    assert info["call_ok"] is True


def test_right_answer_earns_the_reward(env):
    _, reward, terminated, _, info = env.step(ANSWER)
    assert (reward, terminated, info["answer"], info["score"]) == (1.0, True, "42", 1.0)


def test_wrong_answer_earns_nothing(env):
    assert env.step(r"\boxed{41}")[1] == 0.0


def test_answer_without_a_box_earns_nothing(env):
    _, reward, terminated, _, info = env.step("It is 42.")
    assert (reward, terminated, info["answer"]) == (0.0, True, None)


def test_program_error_is_shown(env):
    observation, *_, info = env.step(call("import nothing_of_that_name"))
    assert "ModuleNotFoundError: No module named 'nothing_of_that_name'" in observation
    assert (info["call_ok"], info["error_class"]) == (False, "ModuleNotFoundError")


def test_malformed_call_is_shown_and_never_raised(env):
    observation, *_, info = env.step("<tool_call>{</tool_call>")
    assert observation.startswith("ToolCallError: the call is not valid JSON")
    assert info["error_class"] == "ToolCallError"


def test_silent_program_is_told_to_print(env):
    assert env.step(call("x = 1"))[0].startswith("(no output")


def test_turn_budget_truncates(sandbox):
    env = CodeToolEnv([TASK], sandbox=sandbox, max_turns=2)
    env.reset()
    assert env.step(call("print(1)"))[3] is False
    assert env.step(call("print(1)"))[3] is True


def test_length_budget_truncates(sandbox):
    env = CodeToolEnv([TASK], sandbox=sandbox, max_length=300)
    _, info = env.reset()
    assert info["remaining"] == 300
    *_, truncated, info = env.step(call("print(1)"))
    assert not truncated and info["remaining"] == 300 - len(call("print(1)")) - 1
    assert env.step("x" * 300)[3] is True


def test_budget_used_up_exactly_truncates(sandbox):
    env = CodeToolEnv([TASK], sandbox=sandbox, max_length=len(call("print(1)")) + 1)
    env.reset()
    assert env.step(call("print(1)"))[3] is True


def test_unknown_reward_is_refused_before_the_episode(env):
    with pytest.raises(ValueError, match="unknown reward 'mathh'"):
        env.reset(options={"task": {**TASK, "reward": "mathh"}})


def test_turn_that_was_cut_off_truncates(env):
    _, reward, terminated, truncated, _ = env.step(Completion(ANSWER, truncated=True))
    assert (reward, terminated, truncated) == (0.0, False, True)


def test_step_after_the_end_names_the_remedy(env):
    env.step(ANSWER)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(ANSWER)


def test_seed_reproduces_the_tasks():
    env = CodeToolEnv()
    first = [env.reset(seed=3)[0], env.reset()[0], env.reset()[0]]
    again = [env.reset(seed=3)[0], env.reset()[0], env.reset()[0]]
    assert first == again
    assert len(set(first)) == 3


def test_task_from_options(env):
    observation, info = env.reset(options={"task": {"prompt": "1+1?", "answer": "2"}})
    assert observation == "1+1?"
    assert info["messages"][-1] == {"role": "user", "content": "1+1?"}


@pytest.mark.parametrize(
    "options", [{"tasks": 1}, {"task": {"prompt": "?"}}, {"index": 1, "task": 2}]
)
def test_bad_options_are_refused(env, options):
    with pytest.raises(ValueError, match=r"options|answer"):
        env.reset(options=options)


@pytest.mark.parametrize(
    "wrong", [{"max_turns": 0}, {"max_length": 0}, {"render_mode": "rgb"}, {"tasks": "gsm8k"}]
)
def test_bad_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CodeToolEnv(**wrong)


def test_sandbox_fault_leaves_the_episode_as_it_was(env, monkeypatch):
    def broken(code):
        raise SandboxError("no worker")

    with monkeypatch.context() as patched:
        patched.setattr(env, "_sandbox", type("Broken", (), {"run": staticmethod(broken)}))
        with pytest.raises(SandboxError):
            env.step(call("print(1)"))
    assert env.episode.turns == []
    assert env.step(call("print(1)"))[0] == "1"


def test_render_shows_the_transcript(env):
    env.step(call("print(6 * 7)"))
    env.step(ANSWER)
    text = env.render()
    for part in ("What is 6*7?", "print(6 * 7)", "[tool]\n  42", "reward 1"):
        assert part in text


def test_close_stops_the_own_sandbox():
    env = CodeToolEnv([TASK], limits=Limits(wall_s=1))
    env.reset()
    assert env.step(call("print(1)"))[0] == "1"
    env.close()
    env.close()
    env.reset()
    assert env.step(call("print(2)"))[0] == "2"
    env.close()
