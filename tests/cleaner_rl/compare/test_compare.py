"""A whole comparison in miniature: its numbers, its resumption, and its state after a kill."""

import json
import multiprocessing
import os
import re
import shutil
import signal
from pathlib import Path
from statistics import fmean

import pytest
import torch
import trainings

from cleaner_env.episode_io import read_episodes
from cleaner_rl.compare.__main__ import main
from cleaner_rl.compare.progress import ComparisonProgress
from cleaner_rl.errors import CheckpointError, UserError
from cleaner_rl.train import main as train

SMALL = [
    *("--steps", "2", "--prompts", "2", "--minibatch-prompts", "2", "--group-size", "2"),
    *("--save-every", "1", "--eval-tasks", "2", "--workers", "1"),
    *("--max-turns", "2", "--max-turn-tokens", "48"),
]
ARGUMENTS = ["--arms", "off,saar", "--seeds", "2", "--jobs", "2", "--eval-every", "2", *SMALL]


def compare(directory: Path, *more: str) -> int:
    return main([*ARGUMENTS, "--out", str(directory), *more])


def results(directory: Path) -> dict:
    """Everything but times, which no two runs share."""
    found = json.loads((directory / "results.json").read_text())
    del found["seconds"]
    return found


def metrics(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


def saved(directory: Path, arm: str, seed: int, step: int, mode: str):
    run = directory / "runs" / arm / f"seed-{seed}"
    return read_episodes(run / "evaluations" / f"step-{step:06d}-{mode}.jsonl.gz")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A comparison in one go."""
    trainings.warm_up()
    directory = tmp_path_factory.mktemp("comparisons") / "whole"
    assert compare(directory) == 0
    return directory


@pytest.mark.parametrize("arm", ["off", "purified"])
@pytest.mark.parametrize("mode", ["off", "on"])
def test_figures_are_those_of_the_saved_episodes(whole, arm, mode):
    for step in (0, 2):
        figures = results(whole)["held_out"][arm][mode][str(step)]
        seeds = [saved(whole, arm, seed, step, mode) for seed in (0, 1)]
        episodes = seeds[0] + seeds[1]
        right = [[episode.score == 1.0 for episode in of_seed] for of_seed in seeds]
        assert figures["accuracy"]["by_seed"] == [fmean(of_seed) for of_seed in right]
        assert figures["accuracy"]["value"] == fmean(right[0] + right[1])
        failures = [sum(turn.ok is False for turn in e.raw_turns) for e in episodes]
        assert figures["failed_calls"]["value"] == fmean(failures)
        first = [t.ok for e in episodes for t in e.raw_turns if t.ok is not None and not t.retry]
        assert figures["first_attempt_success"]["value"] == pytest.approx(fmean(first))
        sampled = [sum(len(t.completion.tokens.ids) for t in e.raw_turns) for e in episodes]
        assert figures["tokens_sampled"]["value"] == fmean(sampled)
        assert figures["turns"]["value"] == fmean(len(e.turns) for e in episodes)
        low, high = figures["failed_calls"]["interval_95"]
        assert low <= fmean(failures) <= high


def test_differences_are_between_the_saved_episodes_of_two_arms(whole):
    for mode in ("off", "on"):
        means = {
            arm: fmean(
                sum(turn.ok is False for turn in episode.raw_turns)
                for seed in (0, 1)
                for episode in saved(whole, arm, seed, 2, mode)
            )
            for arm in ("off", "purified")
        }
        found = results(whole)["differences"]["purified"][mode]["2"]["failed_calls"]
        assert found["value"] == pytest.approx(means["purified"] - means["off"])
        low, high = found["interval_95"]
        assert low <= found["value"] <= high
        assert fmean(found["by_seed"]) == pytest.approx(found["value"])


def test_training_figures_are_those_of_the_logs(whole):
    for arm in ("off", "purified"):
        logs = [metrics(whole / "runs" / arm / f"seed-{seed}") for seed in (0, 1)]
        training = results(whole)["training"][arm]
        rewards = [fmean(log[step]["reward"] for log in logs) for step in (0, 1)]
        assert training["metrics"]["reward"]["mean"] == pytest.approx(rewards)
        totals = [sum(row["tokens_sampled"] * row["episodes"] for row in log) for log in logs]
        assert training["tokens_by_seed"] == pytest.approx(totals)


def test_the_page_says_what_the_results_say(whole):
    page = (whole / "report.md").read_text()
    figures = results(whole)["held_out"]["purified"]["off"]["2"]["accuracy"]
    low, high = figures["interval_95"]
    assert f"{figures['value']:.1%} [{low:.1%}, {high:.1%}]" in page
    assert f"Target: {results(whole)['reaching']['target']:.1%}." in page
    assert {"held-out.png", "training.png", "tokens.png"} <= {p.name for p in whole.iterdir()}


def test_all_arms_see_the_same_tasks_and_begin_alike(whole):
    for seed in (0, 1):
        runs = [whole / "runs" / arm / f"seed-{seed}" for arm in ("off", "purified")]
        starts = [(run / "evaluation-000000.json").read_bytes() for run in runs]
        assert starts[0] == starts[1]
        prompts = [
            [e.task.prompt for e in saved(whole, arm, seed, 2, mode)]
            for arm in ("off", "purified")
            for mode in ("off", "on")
        ]
        assert all(of_one == prompts[0] for of_one in prompts)


def test_finished_runs_are_not_repeated(whole, monkeypatch):
    monkeypatch.setattr(
        "cleaner_rl.compare.pool.WorkerPool._begin", lambda *_: pytest.fail("a run began")
    )
    before = (whole / "results.json").read_bytes()
    assert compare(whole) == 0
    assert (whole / "results.json").read_bytes() == before


def test_arms_that_a_command_omits_are_named(whole, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    assert main(["--arms", "off", *ARGUMENTS[2:], "--out", str(copy)]) == 0
    assert "purified are there as well: name them with --arms" in capsys.readouterr().out
    assert list(results(copy)["held_out"]) == ["off"]


def test_the_report_alone_is_computed_again_from_the_files(whole, tmp_path):
    copy = tmp_path / whole.name
    shutil.copytree(whole, copy)
    for name in ("report.md", "results.json", "held-out.png"):
        (copy / name).unlink()
    assert main(["--report-only", str(copy)]) == 0
    for name in ("report.md", "results.json"):
        assert (copy / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_the_figures_are_drawn(whole, tmp_path, drawing):
    copy = shutil.copytree(whole, tmp_path / "copy")
    assert main(["--report-only", str(copy)]) == 0
    assert (copy / "held-out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_after_a_kill_the_same_command_gives_the_same_results(whole, tmp_path, monkeypatch, capsys):
    """One run is killed after its first step; the others do not suffer, and nothing is lost."""
    directory = tmp_path / "copy"
    shutil.copytree(whole, directory)
    for arm in ("off", "purified"):
        shutil.rmtree(directory / "runs" / arm / "seed-0")
    tick, killed = ComparisonProgress.tick, []

    def killing(self, under_way):
        tick(self, under_way)
        for run in under_way:
            for child in multiprocessing.active_children():
                if child.name == run.name == "purified, seed 0" and run.steps_done and not killed:
                    killed.append(run)
                    os.kill(child.pid, signal.SIGKILL)

    monkeypatch.setattr(ComparisonProgress, "tick", killing)
    monkeypatch.setattr("cleaner_rl.compare.pool._TICK", 0.02)
    assert compare(directory) == 1
    assert "purified, seed 0 failed, exit status -9" in capsys.readouterr().err
    partly = results(directory)
    assert partly["missing"] == ["off, seed 0", "purified, seed 0"] and partly["seeds"] == [1]
    assert compare(directory) == 0
    assert results(directory) == results(whole)


@pytest.fixture
def threads():
    """Puts torch's number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_evaluations_do_not_change_the_training(whole, tmp_path, threads):
    """An arm is what the training command does without any evaluation."""
    run = tmp_path / "run"
    torch.set_num_threads(1)  # as each of several runs at a time has
    changes = ["--saar", "on", "--credit", "purified", "--eval-tasks", "0"]
    assert train(["--run-dir", str(run), *SMALL, *changes]) == 0
    assert metrics(run) == metrics(whole / "runs" / "purified" / "seed-0")


def test_other_settings_are_refused(whole):
    with pytest.raises(UserError, match=r"--learning-rate \(0\.0002 then, 0\.001 now\).*--out"):
        compare(whole, "--learning-rate", "0.001")


def test_another_policy_under_the_same_name_is_refused(whole, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    for seed in (0, 1):
        shutil.rmtree(copy / "runs" / "off" / f"seed-{seed}")
        identity = copy / "start" / f"seed-{seed}" / "identity.json"
        identity.write_text(json.dumps({**json.loads(identity.read_text()), "policy": "other"}))
    assert compare(copy) == 1
    assert "the policy changed since this comparison was started" in capsys.readouterr().err


def test_a_damaged_file_of_episodes_is_reported(whole, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    file = copy / "runs" / "off" / "seed-1" / "evaluations" / "step-000002-on.jsonl.gz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"cannot read the episodes in .*step-000002-on"):
        main(["--report-only", str(copy)])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arms": ["off", "none"]}, "unknown arms, ['none']"),
        ({"config": {"steeps": 1}}, "settings that do not exist: ['steeps']"),
    ],
)
def test_a_plan_of_another_version_is_reported(whole, tmp_path, change, said):
    plan = json.loads((whole / "comparison.json").read_text())
    (tmp_path / "comparison.json").write_text(json.dumps({**plan, **change}))
    with pytest.raises(CheckpointError, match=re.escape(said)):
        main(["--report-only", str(tmp_path)])


def test_a_file_that_is_not_a_plan_is_reported(tmp_path):
    (tmp_path / "comparison.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"cannot read .*comparison\.json"):
        main(["--report-only", str(tmp_path)])
