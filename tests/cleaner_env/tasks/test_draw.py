"""The problem that the options of ``reset`` ask for."""

import pytest

from cleaner_env import CodeToolEnv, Task


@pytest.fixture
def env(write):
    rows = [
        {"problem": f"{i}?", "answer": i, "type": "odd" if i % 2 else "even", "level": i // 5}
        for i in range(10)
    ]
    return CodeToolEnv(f"math:{write('math.jsonl', rows)}@holdout=0")


def test_options_pick_a_family_and_a_difficulty(env):
    drawn = set()
    for _ in range(60):
        env.reset(options={"family": "odd", "difficulty": 1})
        drawn.add(env.episode.task.answer)
    assert drawn == {"5", "7", "9"}


def test_options_pick_an_index_within_a_family(env):
    for index in (0, 1, 2):
        _, info = env.reset(options={"family": "even", "index": index})
        assert info["family"] == "even"


def test_an_option_that_nothing_fits_says_what_there_is(env):
    with pytest.raises(ValueError, match=r"families \['even', 'odd'\].*\['0', '1'\]"):
        env.reset(options={"family": "prime"})
    with pytest.raises(ValueError, match="either 'task', or"):
        env.reset(options={"task": {"prompt": "?", "answer": "1"}, "family": "odd"})


def test_options_of_generated_tasks():
    env = CodeToolEnv("reasoning-gym:gcd,lcm")
    _, info = env.reset(seed=1, options={"family": "lcm", "difficulty": 0})
    assert info["family"] == "lcm"
    with pytest.raises(ValueError, match="no family 'sum' here"):
        env.reset(options={"family": "sum"})
    with pytest.raises(ValueError, match="a level such as 2"):
        env.reset(options={"difficulty": "hard"})


def test_a_source_without_select_says_so():
    class Endless:
        def __getitem__(self, index):
            return Task(str(index), "1")

    with pytest.raises(ValueError, match="Endless cannot pick tasks"):
        CodeToolEnv(Endless()).reset(options={"family": "odd"})
