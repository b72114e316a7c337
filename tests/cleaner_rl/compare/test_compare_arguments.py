"""What the comparison's command and its arms accept, and how they refuse everything else."""

import json
import os
from dataclasses import replace

import pytest

from cleaner_rl.compare.__main__ import lanes_of, main
from cleaner_rl.compare.arms import ALIASES, ARMS, parse_arms
from cleaner_rl.compare.config import parse_compare
from cleaner_rl.compare.directory import ComparisonDirectory
from cleaner_rl.config import PRESETS
from cleaner_rl.errors import CheckpointError, UserError
from cleaner_rl.runs.lock import reserved
from cleaner_rl.settings import flat


def names(text):
    return [arm.name for arm in parse_arms(text)]


def test_the_default_is_the_baseline_the_paper_and_the_best_rule():
    config, arms = parse_compare([])
    assert [arm.name for arm in arms] == ["off", "purified", "branched"]
    assert config.seed_list == [0, 1, 2] and config.train.preset == "tiny"


def test_saar_is_the_published_rule():
    assert names("off, saar,purified") == ["off", "purified"]
    config = ARMS["purified"].config(PRESETS["tiny"])
    rules = config.episode
    assert (rules.saar, config.credit, rules.gamma, rules.max_retries) == (
        *("on", "purified"),
        *(0.5, 3),
    )


@pytest.mark.parametrize("alias", ALIASES)
def test_no_two_arms_of_a_named_set_are_the_same(alias):
    configs = [flat(arm.config(PRESETS["tiny"])) for arm in parse_arms(alias)]
    assert all(a != b for i, a in enumerate(configs) for b in configs[:i])


@pytest.mark.parametrize("name", ARMS)
def test_all_arms_play_the_same_number_of_episodes(name):
    base, config = PRESETS["tiny"], ARMS[name].config(PRESETS["tiny"])
    played = config.group_size * (config.oversample if config.episode.saar == "roc" else 1)
    assert (config.prompts, played) == (base.prompts, base.group_size)


@pytest.mark.parametrize("size", [3, 2])
def test_groups_that_roc_cannot_halve_are_refused(size):
    with pytest.raises(UserError, match=f"--group-size {size} has to be a multiple"):
        ARMS["roc"].config(replace(PRESETS["tiny"], group_size=size))


@pytest.mark.parametrize("device", ["--device", "--devices"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(device, tmp_path):
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        main([device, "gpu", "--out", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


def test_settings_of_training_are_those_of_all_arms():
    config, arms = parse_compare(["--steps", "20", "--learning-rate", "0.5", "--arms", "off"])
    run = ComparisonDirectory(config.directory).run(config, arms[0], config.seed_list[0])
    assert (run.config.steps, run.config.update.learning_rate, run.config.episode.saar) == (
        20,
        0.5,
        "off",
    )
    assert run.config.monitor.eval_every == 2


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--arms", "off,sar"], "unknown arm 'sar'; use off, purified"),
        (["--arms", ","], "--arms names no arm"),
        (["--saar", "off"], "the arm off sets --saar itself"),
        (["--gamma", "0.4", "--arms", "off,gamma-0"], "the arm gamma-0 sets --gamma itself"),
        (["--saar", "on", "--arms", "off"], "the arm off sets --saar itself"),
        (["--rollback_probability", "1", "--arms", "rho-0.7"], "rho-0.7 sets --rollback-prob"),
        (["--max_retries=3", "--arms", "retries-3"], "the arm retries-3 sets --max-retries itself"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--jobs", "-1"], "--jobs must not be negative"),
        (["--run-dir", "x"], "leave out --run-dir"),
        (["--eval-every", "0"], "--eval-every must be at least 1"),
        (["--eval-tasks", "0"], "--eval-every needs --eval-tasks"),
        (["--preset", "small"], "unknown preset 'small'"),
        (["--steps", "0"], "--steps must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, part):
    with pytest.raises(UserError, match=part):
        parse_compare(arguments)


def test_runs_are_spread_over_devices_and_jobs():
    config, _ = parse_compare(["--devices", "cpu,cpu", "--jobs", "2"])
    assert [lane.device for lane in lanes_of(config, 9)] == ["cpu"] * 4
    assert all(lane.threads >= 1 for lane in lanes_of(config, 9))


def test_a_directory_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not a comparison; choose another --out"):
        main(["--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_tasks_without_a_test_split_are_refused_before_anything_is_written(tmp_path):
    (tmp_path / "one.jsonl").write_text('{"prompt": "What is 6*7?", "answer": "42"}\n')
    with pytest.raises(UserError, match="too few tasks for a test split"):
        main(["--out", str(tmp_path / "out"), "--tasks", f"{tmp_path / 'one.jsonl'}@holdout=0"])
    assert not (tmp_path / "out").exists()


def test_a_directory_in_use_is_refused(tmp_path):
    with (
        reserved(tmp_path),
        pytest.raises(CheckpointError, match=f"is being written by process {os.getpid()} on "),
    ):
        main(["--out", str(tmp_path)])


def test_a_report_needs_a_comparison(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read .*No such file.*--report-only"):
        main(["--report-only", str(tmp_path)])


def test_a_report_needs_a_finished_seed(tmp_path):
    plan = {"arms": ["off"], "seeds": [0], "command": "", "made_with": {}}
    config = flat(parse_compare([])[0].train)
    (tmp_path / "comparison.json").write_text(json.dumps({**plan, "config": config}))
    with pytest.raises(CheckpointError, match=r"no seed of the comparison .* is finished"):
        main(["--report-only", str(tmp_path)])
