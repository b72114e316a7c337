"""CodeToolEnv as a Gymnasium environment."""

import subprocess
import sys
import warnings

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from scripted import call

from cleaner_env import CodeToolEnv, Completion, Limits, SAARWrapper, SandboxError, Task

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
        check_env(env.unwrapped)
    env.close()


def test_tool_call_returns_its_output(env):
    observation, reward, terminated, truncated, info = env.step(call("print(6 * 7)"))
    assert (observation, reward, terminated, truncated) == ("42", 0.0, False, False)
    assert info["call_ok"] is True


def test_info_omits_keys_that_do_not_apply(env):
    _, info = env.reset()
    assert not {"call_ok", "remaining", "answer", "score"} & info.keys()
    assert "call_ok" not in env.step(ANSWER)[4]


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


def test_an_episode_can_be_ended_before_its_first_turn(env):
    observation, reward, terminated, truncated, _ = env.truncate()
    assert (observation, reward, terminated, truncated) == ("", 0.0, False, True)


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


class Levels:
    """A source that can choose."""

    def __init__(self, family="any", difficulty=0):
        self.chosen = f"{family} {difficulty}"

    def __getitem__(self, index):
        return Task(f"{self.chosen}: {index}", "1")

    def select(self, family, difficulty):
        return Levels(family or "any", difficulty or 0)


@pytest.mark.parametrize(
    ("options", "prompt"),
    [
        ({"index": 5}, "any 0: 5"),
        ({"family": "gcd", "index": 5}, "gcd 0: 5"),
        ({"difficulty": 2, "index": 5}, "any 2: 5"),
        ({"family": "gcd", "difficulty": 2, "index": 5}, "gcd 2: 5"),
    ],
)
def test_options_choose_among_the_sources_tasks(options, prompt):
    assert CodeToolEnv(Levels()).reset(options=options)[0] == prompt


def test_a_family_without_an_index_is_drawn_by_the_seed():
    env = CodeToolEnv(Levels())
    first, again = (env.reset(seed=3, options={"family": "gcd"})[0] for _ in range(2))
    assert first == again and first.startswith("gcd 0: ")
    assert env.reset(options={"family": "gcd"})[0] != first


def test_a_source_that_cannot_choose_says_so():
    with pytest.raises(ValueError, match=r"One .*select\(family"):
        CodeToolEnv(type("One", (), {"__getitem__": lambda *_: None})()).reset(
            options={"family": "gcd"}
        )


def test_an_index_must_be_a_number(env):
    with pytest.raises(ValueError, match=r"options\['index'\] must be a whole number, not '1'"):
        env.reset(options={"index": "1"})


def test_an_action_must_be_text(env):
    with pytest.raises(TypeError, match="an action is the text of a turn, a str; got int"):
        env.step(42)


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


def test_human_rendering_prints_each_turn_as_it_is_taken(sandbox, capsys):
    env = SAARWrapper(CodeToolEnv([TASK], sandbox=sandbox, render_mode="human"))
    env.reset()
    assert "[user]\n  What is 6*7?" in capsys.readouterr().out
    env.step(call("print(6 * x)"))
    assert "[tool (failed)]\n  Traceback" in capsys.readouterr().out
    env.step(call("print(6 * 7)"))
    replaced, tool = capsys.readouterr().out.split("[assistant]")
    assert replaced.startswith("[rollback]") and "[tool]\n  42" in tool
    env.step(ANSWER)
    assert "reward 1" in capsys.readouterr().out


def test_human_rendering_escapes_what_the_terminal_cannot_show(sandbox, capsys):
    env = CodeToolEnv([TASK], sandbox=sandbox, render_mode="human")
    env.reset()
    env.step("\ud800")
    assert r"\ud800" in capsys.readouterr().out


def test_programs_and_answers_may_be_any_text(env):
    assert env.step(call("print('\U0001f600 é \0')"))[4]["error_class"] == "SyntaxError"
    assert env.step(call("print('\U0001f600 é')"))[0] == "\U0001f600 é"
    assert env.step(call("print('\ud800')"))[4]["error_class"] == "UnicodeEncodeError"
    assert env.step(r"\boxed{" + "\ud800" + "}")[4]["answer"] == "\ud800"


def test_close_stops_the_own_sandbox():
    env = CodeToolEnv([TASK], limits=Limits(wall_s=1))
    env.reset()
    assert env.step(call("print(1)"))[0] == "1"
    env.close()
    env.close()
    env.reset()
    assert env.step(call("print(2)"))[0] == "2"
    env.close()
