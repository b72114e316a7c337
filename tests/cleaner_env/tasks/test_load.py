"""Sources by name: what a spec means, and the two splits."""

import pytest
from task_rows import GSM8K, numbered, tasks

from cleaner_env.rewards import score
from cleaner_env.tasks.families import SHORT_PROGRAMS
from cleaner_env.tasks.load import load_tasks


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("gsm8k", "which file"),
        ("gsm9k:a.jsonl", r"unknown tasks 'gsm9k:a.jsonl'.*Did you mean 'gsm8k'\?"),
        ("reasoning_gym:gcd", r"Did you mean 'reasoning-gym'\?"),
        ("reasoning-gym:lcm,gdc", r"has no family 'gdc'. Did you mean 'gcd'\?"),
        ("reasoning-gym:gdc@level=2", r"has no family 'gdc'. Did you mean 'gcd'\?"),
        ("reasoning-gym:short_programs", r"Did you mean 'short-programs'\?"),
        ("reasoning-gym:zzz", r"has no family 'zzz'; it has \['ab', "),
        ("builtin:prime", r"Did you mean 'primes'\?"),
        ("builtin@levle=2", r"Did you mean 'level'\?"),
        ("gsm8k:{}@weigth=2", r"unknown options \['weigth'\].*Did you mean 'weight'\?"),
        ("gsm8k:{}@level=2", r"unknown options \['level'\]"),
        ("gsm8k:{}@holdout=2", "between 0 and 1, not '2'"),
        ("gsm8k:{}@limit=many", "must be a number"),
        ("gsm8k:{}@shuffle=maybe", r"one of \['yes', 'no'\]"),
        ("gsm8k:{}@limit=1,limit=2", "each once"),
        ("gsm8k:{}@limit=", "NAME=VALUE"),
        ("gsm8k:{}@rate=x", "min_rate or max_rate"),
        ("gsm8k:{}@max_rate=0.5", "rate=COLUMN or rates=FILE"),
        ("gsm8k:{} + ", "names no tasks"),
        ("", "names no tasks"),
        ([], "names no tasks"),
        ([("gsm8k:a.jsonl", 0.5)], "are texts"),
        ("reasoning-gym:gcd@level=99", "go from 0 to 3"),
        ("reasoning-gym:gcd@level=hard", "must be a number"),
        ("reasoning-gym@weigth=2", "unknown options"),
        ("hf://openai/gsm8k@no=1", "unknown options"),
    ],
)
def test_a_spec_that_cannot_be_meant_is_refused(write, spec, why):
    if isinstance(spec, str):
        spec = spec.replace("{}", write("rows.jsonl", [GSM8K]))
    with pytest.raises(ValueError, match=why):
        load_tasks(spec)


def test_a_set_of_families_and_families_by_name_make_one_source():
    source = load_tasks("reasoning-gym:short-programs,letter_counting")
    families = [source[index].family for index in range(13)]
    assert families == [*SHORT_PROGRAMS, "letter_counting"]
    assert source.select("time_intervals")[0].family == "time_intervals"


@pytest.mark.parametrize("holdout", [0.0, 0.1, 0.3, 1.0])
def test_every_task_is_in_one_split(write, holdout):
    spec = f"{numbered(write, 400)}@holdout={holdout}"
    parts = []
    for split in ("train", "test"):
        try:
            parts.append({task.prompt for task in tasks(spec, split)})
        except ValueError:
            parts.append(set())
    train, test = parts
    assert train.isdisjoint(test) and len(train | test) == 400
    assert len(test) == pytest.approx(400 * holdout, abs=25)


def test_the_split_does_not_depend_on_other_rows_or_the_seed(write):
    few, many = numbered(write, 40), numbered(write, 80)
    small = {task.prompt for task in tasks(few, "train", seed=1)}
    assert small == {t.prompt for t in tasks(many, "train", seed=2)} & small


def test_the_seed_shuffles(write):
    path = numbered(write, 40)
    one_order, other = (tasks(path, "train", seed=seed) for seed in (1, 2))
    assert tasks(path, "train", seed=1) == one_order != other
    assert {task.prompt for task in one_order} == {task.prompt for task in other}


def test_limit_takes_the_first(write):
    path = numbered(write, 40)
    assert tasks(f"{path}@limit=5", "train") == tasks(path, "train")[:5]


def test_benchmarks_are_not_trained_on_by_accident(write):
    path = write("aime.jsonl", [{"problem": f"{i}?", "answer": "1"} for i in range(30)])
    assert len(tasks(f"aime:{path}")) == 30
    with pytest.raises(ValueError, match="held out for evaluation"):
        load_tasks(f"aime:{path}", "train")
    assert len(tasks(f"aime:{path}@holdout=0", "train")) == 30


def test_official_splits_side_by_side(write):
    train = numbered(write, 9, "train.jsonl")
    test = numbered(write, 5, "test.jsonl")
    spec = f"{train}@holdout=0 + {test}@holdout=1"
    assert {t.prompt.split(".")[0] for t in tasks(spec, "train")} == {"train"}
    assert {t.prompt.split(".")[0] for t in tasks(spec, "test")} == {"test"}


def test_levels_of_difficulty():
    easy, hard = (load_tasks(f"reasoning-gym:gcd,lcm@level={level}", seed=1) for level in (0, 3))
    assert [easy[i].family for i in range(2)] == ["gcd", "lcm"]
    assert max(len(easy[2 * i].prompt) for i in range(20)) < max(
        len(hard[2 * i].prompt) for i in range(20)
    )
    assert all(score(hard[i].answer, hard[i]) == 1.0 for i in range(6))
