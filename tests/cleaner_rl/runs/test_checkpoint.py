"""Checkpoints: whole or not at all, and never silently damaged."""

import pytest
import torch

from cleaner_rl.errors import CheckpointError
from cleaner_rl.models.policy import load_policy
from cleaner_rl.runs.checkpoint import list_checkpoints, load_state, save_checkpoint


@pytest.fixture
def checkpoint(toy_policy, tmp_path):
    directory = tmp_path / "step-000001"
    save_checkpoint(directory, toy_policy, {"step": 1})
    return directory


def test_state_comes_back(checkpoint):
    assert load_state(checkpoint) == {"step": 1}


def test_it_is_an_ordinary_model_directory(checkpoint, toy_policy):
    loaded = load_policy(str(checkpoint), "cpu")
    for name, value in toy_policy.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name])


@pytest.mark.parametrize("name", ["model.safetensors", "trainer_state.pt", "config.json"])
def test_truncated_file_is_named(checkpoint, name):
    file = checkpoint / name
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=f"{name} is damaged.*started again"):
        load_state(checkpoint)


def test_damage_names_the_earlier_checkpoint(checkpoint, toy_policy):
    later = checkpoint.with_name("step-000002")
    save_checkpoint(later, toy_policy, {"step": 2})
    (later / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="continue from step-000001"):
        load_state(later)


def test_interrupted_write_leaves_no_checkpoint(toy_policy, tmp_path, monkeypatch):
    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(tmp_path / "step-000001", toy_policy, {})
    assert list_checkpoints(tmp_path) == []


def test_rewriting_replaces(checkpoint, toy_policy):
    save_checkpoint(checkpoint, toy_policy, {"step": 7})
    assert load_state(checkpoint) == {"step": 7}
