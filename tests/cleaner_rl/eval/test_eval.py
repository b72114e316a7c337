"""The evaluation command."""

import json

import pytest

from cleaner_rl.config import PRESETS
from cleaner_rl.errors import PolicyError, UserError
from cleaner_rl.eval.__main__ import main
from cleaner_rl.eval.config import parse_eval
from cleaner_rl.runs.run_directory import RunDirectory
from cleaner_rl.settings import change


@pytest.fixture
def arguments(toy_policy, tmp_path):
    toy_policy.save(tmp_path / "model")
    return [
        *("--model", str(tmp_path / "model"), "--num-tasks", "3", "--samples", "2"),
        *("--max-turn-tokens", "8", "--system-prompt", "none"),
    ]


def test_both_modes_stand_side_by_side(arguments, tmp_path, capsys):
    assert main([*arguments, "--rollback", "both", "--out", str(tmp_path / "out")]) == 0
    header = capsys.readouterr().out.splitlines()[1].split()
    assert header == ["rollback", "off", "on", "on", "-", "off"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(summary["results"]) == {"off", "on"}
    episodes = (tmp_path / "out" / "episodes.jsonl").read_text().splitlines()
    assert len(episodes) == 2 * 3 * 2


def test_summary_can_be_recomputed_from_the_episodes(arguments, tmp_path):
    main([*arguments, "--out", str(tmp_path / "out")])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]["off"]
    rows = map(json.loads, (tmp_path / "out" / "episodes.jsonl").read_text().splitlines())
    tokens = [row["episode"]["stats"]["tokens_sampled"] for row in rows]
    assert summary["metrics"]["tokens_sampled"] == pytest.approx(sum(tokens) / len(tokens))


def test_a_checkpoint_is_evaluated_with_the_settings_of_its_run(tmp_path):
    config = change(PRESETS["tiny"], max_turns=7, code_seconds=0.5)
    RunDirectory.create(tmp_path / "run", config)
    checkpoint = str(tmp_path / "run" / "checkpoints" / "step-000001")
    parsed = parse_eval(["--model", checkpoint])
    assert (parsed.episode.max_turns, parsed.episode.code_seconds) == (7, 0.5)
    assert parse_eval(["--model", checkpoint, "--max-turns", "3"]).episode.max_turns == 3
    assert parse_eval([]).episode.max_turns == PRESETS["tiny"].episode.max_turns


def test_the_papers_protocol_is_a_preset(tmp_path):
    paper = parse_eval(["--preset", "paper"])
    assert (paper.samples, paper.episode.temperature, paper.top_p) == (16, 1.0, 0.6)
    assert parse_eval(["--preset", "paper", "--samples", "4"]).samples == 4
    with pytest.raises(UserError, match="unknown preset 'papers'"):
        parse_eval(["--preset", "papers"])
    config = change(PRESETS["tiny"], max_turns=7, temperature=0.3)
    RunDirectory.create(tmp_path / "run", config)
    checkpoint = str(tmp_path / "run" / "checkpoints" / "step-000001")
    ours = parse_eval(["--preset", "paper", "--model", checkpoint])
    assert (ours.episode.max_turns, ours.episode.temperature, ours.top_p) == (7, 1.0, 0.6)


def test_a_reward_of_ones_own_is_that_of_its_run_and_judges_evaluations(
    reward_module, arguments, tmp_path
):
    module = reward_module(
        "from cleaner_env.rewards import Scorer\n"
        "all = Scorer(lambda answer, task, runner: 1.0, extract=str)"
    )
    RunDirectory.create(tmp_path / "run", change(PRESETS["tiny"], reward=f"{module}:all"))
    checkpoint = str(tmp_path / "run" / "checkpoints" / "step-000001")
    assert parse_eval(["--model", checkpoint]).episode.reward == f"{module}:all"
    main([*arguments, "--reward", f"{module}:all", "--out", str(tmp_path / "out")])
    rows = map(json.loads, (tmp_path / "out" / "episodes.jsonl").read_text().splitlines())
    episodes = [row["episode"] for row in rows]
    assert all(episode["score"] == episode["terminated"] for episode in episodes)
    with pytest.raises(UserError, match=r"--reward: .* has no object 'none'"):
        main([*arguments, "--reward", f"{module}:none"])


def test_samples_are_judged_together(arguments, tmp_path):
    out = str(tmp_path / "out")
    main([*arguments, "--samples", "4", "--out", out])
    metrics = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]["off"]
    assert {"accuracy", "pass@1", "pass@2", "pass@4", "majority@4"} <= set(metrics["metrics"])
    assert "pass@8" not in metrics["metrics"]


def test_output_directory_in_use_is_left_alone(arguments, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        main([*arguments, "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"model", "notes.txt"}


def test_the_directory_in_a_printed_command_is_quoted(arguments, tmp_path):
    (tmp_path / "my out").mkdir()
    (tmp_path / "my out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=f"--resume '{tmp_path}/my out'"):
        main([*arguments, "--out", str(tmp_path / "my out")])


def test_nothing_is_written_for_a_model_that_is_not_there(arguments, tmp_path):
    with pytest.raises(PolicyError, match="nothing was written"):
        main([*arguments, "--model", "./no-model", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_missing_model_is_reported(tmp_path):
    with pytest.raises(PolicyError, match="there is no directory"):
        main(["--model", str(tmp_path / "nowhere")])


def test_unknown_tasks_are_reported(arguments):
    with pytest.raises(UserError, match="unknown tasks 'gsm8k'"):
        main([*arguments, "--tasks", "gsm8k"])
