"""Evaluations on disk: what is whole, what is read back, what a resumed run forgets."""

import pytest

from cleaner_env import Episode, Task
from cleaner_env.episode_io import episode_to_dict, read_episodes
from cleaner_rl.config import PRESETS
from cleaner_rl.errors import CheckpointError
from cleaner_rl.runs.evaluations import (
    episodes_path,
    evaluated_steps,
    read_evaluation,
    summary_path,
    write_evaluation,
)
from cleaner_rl.runs.run_directory import RunDirectory


def row(problem: int, answer: str = "1"):
    episode = Episode(Task(f"problem {problem}", "1"), [])
    episode.answer = answer
    return {"problem": problem, "sample": 0, "seconds": 0.5, "episode": episode_to_dict(episode)}


def write(run, step):
    write_evaluation(run, step, {"off": [row(1), row(0)], "on": [row(0)]}, {"step": step})


def test_rows_come_back_in_the_order_of_the_problems(tmp_path):
    write(tmp_path, 10)
    assert read_evaluation(tmp_path, 10, "off") == [row(0), row(1)]
    assert read_evaluation(tmp_path, 10, "on") == [row(0)]


def test_the_episodes_are_an_episode_file(tmp_path):
    write(tmp_path, 10)
    episodes = read_episodes(episodes_path(tmp_path, 10, "off"))
    assert [episode.task.prompt for episode in episodes] == ["problem 0", "problem 1"]


def test_text_that_is_no_unicode_survives(tmp_path):
    write_evaluation(tmp_path, 0, {"off": [row(0, "\ud83d")]}, {})
    assert read_evaluation(tmp_path, 0, "off")[0]["episode"]["answer"] == "\ud83d"


def test_an_evaluation_without_its_figures_is_not_whole(tmp_path):
    for step in (0, 10):
        write(tmp_path, step)
    summary_path(tmp_path, 10).unlink()
    (tmp_path / "evaluation-before.json").write_text("{}")
    assert evaluated_steps(tmp_path) == [0]


def test_a_resumed_run_forgets_later_evaluations(tmp_path):
    for step in (0, 10, 20):
        write(tmp_path, step)
    RunDirectory(tmp_path).rewind(PRESETS["tiny"], 10)
    assert evaluated_steps(tmp_path) == [0, 10]
    with pytest.raises(CheckpointError, match="cannot read the episodes"):
        read_evaluation(tmp_path, 20, "on")
