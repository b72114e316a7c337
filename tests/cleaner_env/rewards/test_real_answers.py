"""Extraction and verification on real data sets; all of them in benchmarks/verify_answers.py."""

import importlib.util
import os
from pathlib import Path

import pytest

from cleaner_env import Task
from cleaner_env.rewards import extract_boxed, extract_code, score
from cleaner_env.tasks.load import first_tasks, load_tasks
from cleaner_env.tasks.rows import read_rows

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("CLEANER_DATA", ROOT.parent / "shared" / "data"))
NEEDS_DATA = pytest.mark.skipif(
    not (DATA / "gsm8k_test.jsonl").exists(),
    reason=f"no data sets in {DATA}; CLEANER_DATA names another directory",
)


def benchmark(name):
    """A program of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@NEEDS_DATA
@pytest.mark.parametrize(
    ("name", "stride"), [("GSM8K test", 60), ("AIME24", 4), ("ASDiv", 60), ("MAWPS", 90)]
)
def test_references_verify_and_altered_ones_do_not(name, stride):
    verify = benchmark("verify_answers")
    spec = verify.SETS[name].format(DATA)
    tasks = first_tasks(load_tasks(spec, "test"), 10_000)[::stride]
    assert len(tasks) >= 8
    assert verify.measure(name, tasks)


@NEEDS_DATA
def test_boxed_answers_in_the_solutions_of_aime24():
    """29 of the 30 solutions box their answer; the other one, I-1, frames it."""
    boxed = [
        (extract_boxed(row.text("solution")), row.text("answer"))
        for row in read_rows(str(DATA / "aime24_test.jsonl"))
    ]
    assert len(boxed) == 30
    for box, answer in boxed:
        assert score(box, Task("?", answer)) == 1.0


def test_fenced_programs_of_human_eval():
    """Every solution comes back whole out of a turn that tells about it."""
    for task in first_tasks(load_tasks("humaneval", "test"), 1000):
        first, then = (f"```python\n{program}\n```" for program in ("pass", task.answer))
        turn = f"First I wrote\n{first}\nbut then\n\n{then}\nIt runs."
        assert extract_code(turn) == task.answer


def test_fenced_commands_of_the_readme_are_no_programs():
    readme = (ROOT / "README.md").read_text()
    assert "```bash" in readme
    assert extract_code(readme).startswith("import gymnasium as gym")


@NEEDS_DATA
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["GSM8K test", "AIME24", "ASDiv", "MAWPS"])
def test_all_references_verify_and_altered_ones_do_not(name):
    verify = benchmark("verify_answers")
    spec = verify.SETS[name].format(DATA)
    assert verify.measure(name, first_tasks(load_tasks(spec, "test"), 10_000))
