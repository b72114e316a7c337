"""The built-in families, and the default source where reasoning-gym is not installed."""

import copy
import math
import pickle
import re
import sys
import warnings
from fractions import Fraction

import pytest

from cleaner_env import CodeToolEnv
from cleaner_env.rewards import score
from cleaner_env.rewards.scorers import reasoning_gym_scorer
from cleaner_env.tasks import draw
from cleaner_env.tasks.builtin import BUILTIN, LEVELS
from cleaner_env.tasks.load import load_tasks
from cleaner_env.tasks.sources import split_of


def numbers(text):
    return [int(digits) for digits in re.findall(r"\d+", text)]


def digits_in_base(number, base):
    return (digits_in_base(number // base, base) if number >= base else "") + str(number % base)


def term(first, factor, step, modulus, place):
    for _ in range(place - 1):
        first = (factor * first + step) % modulus
    return first


def solve(family, question):
    """The answer, found from the question's text alone."""
    found = numbers(question)
    match family:
        case "expression":
            return eval(re.search(r"[\d(].*[\d)]", question)[0])
        case "remainder":
            return found[0] ** found[1] % found[2]
        case "digit_sum":
            return sum(int(digit) for digit in str(found[0] ** found[1]))
        case "primes":
            low, high = found
            return sum(all(n % d for d in range(2, n)) for n in range(low, high + 1))
        case "common":
            return (math.gcd if "greatest" in question else math.lcm)(*found)
        case "base" if question.startswith("Write"):
            return digits_in_base(*found)
        case "base":
            return int(str(found[0]), found[1])
        case "fractions":
            return sum(map(Fraction, re.findall(r"\d+(?:/\d+)?", question)))
        case "sequence":
            return term(*found)
        case "shopping":
            prices = [(int(n), Fraction(p)) for n, p in re.findall(r"(\d+) \w+ at (\S+)", question)]
            (paid,) = re.findall(r"(?:pays with|has) (\d+\.\d+)", question)
            return Fraction(paid) - sum(count * price for count, price in prices)


@pytest.mark.parametrize("family", BUILTIN)
@pytest.mark.parametrize("level", range(LEVELS - 1))
def test_answers_are_what_the_question_asks_for(family, level):
    source = load_tasks(f"builtin:{family}@level={level}")
    for index in range(20):
        task = source[index]
        assert score(str(solve(family, task.prompt)), task) == 1.0, task
        assert score("1" + task.answer, task) == 0.0


def test_the_index_and_the_seed_decide_the_task():
    one, same, other = (load_tasks("builtin", seed=seed) for seed in (1, 1, 2))
    tasks = [one[index] for index in range(40)]
    assert tasks == [same[index] for index in reversed(range(40))][::-1]
    assert len({task.prompt for task in tasks} | {other[i].prompt for i in range(40)}) == 80
    assert [task.family for task in tasks[: len(BUILTIN)]] == list(BUILTIN)


def test_these_tasks_stay_what_they_are():
    source = load_tasks("builtin:remainder,shopping", seed=3)
    assert (source[0].prompt, source[0].answer) == (
        "What is the remainder when 72^27 is divided by 516?",
        "108",
    )
    assert source[3].answer == "24.27"


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_question_belongs_to_the_split(split):
    source = load_tasks("builtin@level=0", split)
    assert {split_of(source[index].prompt) for index in range(100)} == {split}


def test_options_choose_a_family_and_a_level():
    env = CodeToolEnv("builtin:common,primes")
    _, info = env.reset(seed=1, options={"family": "primes", "difficulty": 3})
    assert (info["family"], env.episode.task.entry) == ("primes", {"difficulty": 3})
    with pytest.raises(ValueError, match="no family 'base' here"):
        env.reset(options={"family": "base"})
    with pytest.raises(ValueError, match="a level such as 2, not 'hard'"):
        env.reset(options={"difficulty": "hard"})


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("builtin:gcd", "built-in families are base, common, .*, not gcd"),
        ("builtin@level=4", "from 0 to 3"),
        ("builtin@limit=4", r"unknown options \['limit'\]"),
    ],
)
def test_what_there_is_not_is_refused(spec, why):
    with pytest.raises(ValueError, match=why):
        load_tasks(spec)


def test_a_source_survives_copies():
    source = load_tasks("builtin", seed=5)
    copies = pickle.loads(pickle.dumps(source)), copy.deepcopy(source)
    assert all(copied[7] == source[7] for copied in copies)


@pytest.fixture
def without_reasoning_gym(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)  # an import of it fails
    monkeypatch.setattr(draw, "find_spec", lambda name: None)
    reasoning_gym_scorer.cache_clear()
    draw.say_what_is_missing.cache_clear()
    yield
    draw.say_what_is_missing.cache_clear()


@pytest.mark.usefixtures("without_reasoning_gym")
def test_without_reasoning_gym_the_default_is_built_in_and_says_so_once():
    first, second = CodeToolEnv(), CodeToolEnv()
    with pytest.warns(UserWarning, match=r"pip install -e '\.\[tasks\]'") as said:
        _, info = first.reset(seed=1)
        second.reset(seed=1)
    assert info["family"] in BUILTIN and len(said) == 1
    assert first.episode.task == second.episode.task


@pytest.mark.usefixtures("without_reasoning_gym")
@pytest.mark.parametrize("spec", ["reasoning-gym", "reasoning-gym:gcd@level=1"])
def test_without_reasoning_gym_its_name_says_which_extra_it_needs(spec):
    with pytest.raises(ValueError, match=r"pip install -e '\.\[tasks\]'"):
        CodeToolEnv(spec)
    task = {"prompt": "?", "answer": "1", "family": "gcd", "reward": "reasoning_gym"}
    with pytest.raises(ValueError, match=r"pip install -e '\.\[tasks\]'"):
        CodeToolEnv([task]).reset()


def test_the_default_source_is_made_when_a_task_is_first_drawn(monkeypatch):
    made = []
    default = draw.default_source
    monkeypatch.setattr(draw, "default_source", lambda: made.append(1) or default())
    env = CodeToolEnv()
    env.reset(options={"task": {"prompt": "What is 6*7?", "answer": "42"}})
    assert made == []
    env.reset(seed=1)
    env.reset()
    assert made == [1] and env.episode.task.reward == "reasoning_gym"


def test_named_families_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CodeToolEnv("builtin").reset(seed=1)
