"""Prompts that are too long are left out or skipped, and counted; what cannot work is told before
anything is written."""

import json

import pytest

from cleaner_env import Task
from cleaner_env.tasks.load import load_tasks
from cleaner_rl.errors import UserError
from cleaner_rl.train import main

SHORT, LONG = "What is 6*7?", "What is " + "6*" * 300 + "7?"


@pytest.fixture
def train(toy_policy, tmp_path):
    """Trains a policy that calls nothing for two steps of two problems."""
    toy_policy.save(tmp_path / "model")

    def run(prompts, *arguments):
        (tmp_path / "tasks.jsonl").write_text(
            "".join(json.dumps({"prompt": p, "answer": "42"}) + "\n" for p in prompts)
        )
        arguments = (
            *("--run-dir", str(tmp_path / "run"), "--model", str(tmp_path / "model")),
            *("--tasks", f"{tmp_path / 'tasks.jsonl'}@holdout=0", "--system-prompt", "none"),
            *("--steps", "2", "--prompts", "2", "--minibatch-prompts", "2", "--group-size", "2"),
            *("--max-turn-tokens", "4", "--eval-tasks", "0", *arguments),
        )
        return main(arguments)

    return run


def metrics(tmp_path):
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_problems_with_long_prompts_are_left_out_and_counted(train, tmp_path, capfd):
    assert train([SHORT, *(f"{LONG} {n}" for n in range(9)), "What is 6*8?"]) == 0
    assert "9 prompts exceed --max-prompt-tokens: left out" in capfd.readouterr().err
    assert [(row["groups"], row["prompts_skipped"]) for row in metrics(tmp_path)] == [(2, 0)] * 2


def test_a_run_ends_only_if_every_prompt_is_too_long(train, tmp_path):
    with pytest.raises(UserError, match=r"the shortest \d+; raise --max-prompt-tokens"):
        train([LONG, LONG + "?"])
    assert not (tmp_path / "run").exists()


class Endless:
    """A source whose second step has only prompts that are too long."""

    def __getitem__(self, index):
        return Task(LONG if index in (2, 3) else SHORT, "42")


def test_a_step_whose_prompts_are_all_too_long_is_counted(train, tmp_path, monkeypatch):
    monkeypatch.setattr("cleaner_rl.trainer.load_source", lambda *_: Endless())
    assert train([SHORT]) == 0
    assert [(row["groups"], row["prompts_skipped"]) for row in metrics(tmp_path)] == [
        (2, 0),
        (0, 2),
    ]


def test_an_endless_source_of_long_prompts_is_refused(train, tmp_path, monkeypatch):
    monkeypatch.setattr("cleaner_rl.trainer.load_source", lambda *_: [Task(LONG, "42")] * 100)
    with pytest.raises(UserError, match="every prompt"):
        train([SHORT])
    assert not (tmp_path / "run").exists()


def test_a_missing_test_split_is_told_before_anything_is_written(train, tmp_path):
    with pytest.raises(UserError, match=r"too few tasks for a test split.*--eval-tasks 0 does"):
        train([SHORT], "--eval-tasks", "2")
    assert not (tmp_path / "run").exists()
    assert load_tasks(f"{tmp_path / 'tasks.jsonl'}@holdout=0")[0].prompt == SHORT
