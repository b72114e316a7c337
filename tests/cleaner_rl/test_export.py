"""``export --purified`` writes rows that TRL's trainers for supervised and preference data take."""

import copy
import json
import math

import pytest
from datasets import load_dataset
from scripted import call
from scripted_rollouts import ScriptedSandbox

from cleaner_env import CodeToolEnv, SAARWrapper, write_episodes
from cleaner_env.chat import write_rows
from cleaner_rl.errors import CheckpointError, UserError
from cleaner_rl.export import main

TASK = {"prompt": "What is 6*7?", "answer": "42"}
BUG, FIX = call("print(6 * y)"), call("print(6 * 7)", "Again.\n")
ANSWER, WRONG = r"\boxed{42}", r"\boxed{41}"


@pytest.fixture
def episodes(tmp_path):
    """A file with a clean, a mended, a wrong and a failed episode."""
    played = []
    for turns in ((FIX, ANSWER), (BUG, FIX, ANSWER), (BUG, FIX, WRONG), (BUG, ANSWER)):
        env = SAARWrapper(CodeToolEnv([TASK], sandbox=ScriptedSandbox(), system_prompt=None))
        env.reset()
        for turn in turns:
            env.step(turn)
        played.append(env.episode)
    write_episodes(tmp_path / "some.jsonl", played)
    return str(tmp_path / "some.jsonl")


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_trajectories_and_corrections_are_written(episodes, tmp_path, capsys):
    out = tmp_path / "rows"
    assert main([episodes, "--out", str(out), "--purified"]) == 0
    assert len(rows(out / "sft.jsonl")) == 2
    assert len(rows(out / "preference.jsonl")) == 1  # the other correction led to a wrong answer
    assert (
        "2 of 4 episodes in sft.jsonl, and corrections of failed calls in preference.jsonl: 1\n"
        in capsys.readouterr().out
    )


def test_all_episodes_may_be_written(episodes, tmp_path):
    out = tmp_path / "rows"
    main([episodes, "--out", str(out), "--purified", "--all-episodes"])
    assert len(rows(out / "sft.jsonl")) == 4
    assert len(rows(out / "preference.jsonl")) == 2


def test_spoilt_episodes_are_never_written(tmp_path):
    env = SAARWrapper(CodeToolEnv([TASK], sandbox=ScriptedSandbox()))
    env.reset()
    for turn in (BUG, FIX, ANSWER):
        env.step(turn)
    env.episode.faulted = True
    counts = write_rows(tmp_path, [env.episode], all_episodes=True)
    assert counts == {"episodes": 1, "sft": 0, "preference": 0}


def test_nothing_is_overwritten(episodes, tmp_path):
    with pytest.raises(CheckpointError, match="exists already"):
        main([episodes, "--out", str(tmp_path), "--purified"])


def test_a_broken_file_leaves_nothing_behind(tmp_path):
    file, out = tmp_path / "some.jsonl", tmp_path / "rows"
    file.write_text("{}\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1"):
        main([str(file), "--out", str(out), "--purified"])
    assert [path.name for path in tmp_path.iterdir()] == ["some.jsonl"]


def test_all_episodes_without_purified_is_refused(episodes, tmp_path):
    with pytest.raises(UserError, match="give both"):
        main([episodes, "--out", str(tmp_path / "rows"), "--all-episodes"])


@pytest.fixture
def exported(episodes, tmp_path):
    """A file's rows, as TRL's users load them."""
    main([episodes, "--out", str(tmp_path / "rows"), "--purified"])

    def load(name):
        file, cache = str(tmp_path / "rows" / f"{name}.jsonl"), str(tmp_path / "cache")
        return load_dataset("json", data_files=file, split="train", cache_dir=cache)

    return load


SETTINGS = {
    **{"max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True, "bf16": False},
    **{"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1},
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_trls_sft_trainer_takes_the_trajectories(exported, toy_policy, tmp_path):
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(output_dir=str(tmp_path / "trl"), **SETTINGS)
    data, tokenizer = exported("sft"), toy_policy.tokenizer
    trainer = SFTTrainer(toy_policy.model, config, train_dataset=data, processing_class=tokenizer)
    shown = tokenizer.decode(trainer.train_dataset[1]["input_ids"])
    assert '"arguments": {"code": "print(6 * 7)"}' in shown and "<tool_response>\n42" in shown
    trainer.train()
    assert math.isfinite(trainer.state.log_history[0]["loss"])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_trls_dpo_trainer_takes_the_corrections(exported, toy_policy, tmp_path):
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(output_dir=str(tmp_path / "trl"), **SETTINGS)
    data, tokenizer = exported("preference"), toy_policy.tokenizer
    model, reference = toy_policy.model, copy.deepcopy(toy_policy.model)
    trainer = DPOTrainer(model, reference, config, train_dataset=data, processing_class=tokenizer)
    row = trainer.train_dataset[0]
    chosen, rejected = (tokenizer.decode(row[name]) for name in ("chosen_ids", "rejected_ids"))
    assert "print(6 * 7)" in chosen and "print(6 * y)" in rejected
    trainer.train()
    assert math.isfinite(trainer.state.log_history[0]["loss"])
