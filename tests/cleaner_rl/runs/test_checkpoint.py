"""Checkpoints: whole or not at all, never silently damaged, from any number of ranks for any."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.errors import CheckpointError, PolicyError
from cleaner_rl.models import weights
from cleaner_rl.models.policy import load_policy
from cleaner_rl.runs import checkpoint as checkpoints
from cleaner_rl.runs.checkpoint import list_checkpoints, load_state, load_tensors, save_checkpoint
from cleaner_rl.runs.files import restore_replaced

MOMENTS = {"exp_avg.a": torch.arange(6.0), "exp_avg.b": torch.ones(2, 3)}


@pytest.fixture
def checkpoint(toy_policy, tmp_path):
    directory = tmp_path / "step-000001"
    save(directory, toy_policy)
    return directory


def save(directory, policy, step=1):
    save_checkpoint(directory, policy, policy.model, MOMENTS, {"step": step}, Ranks("cpu"))


def test_state_is_restored(checkpoint):
    assert load_state(checkpoint) == {"step": 1}


def test_tensors_are_restored(checkpoint):
    loaded = {name: torch.zeros_like(tensor) for name, tensor in MOMENTS.items()}
    load_tensors(checkpoint, loaded)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in MOMENTS.items())


@pytest.mark.parametrize("other", [{"exp_avg.c": torch.ones(2)}, {"exp_avg.a": torch.ones(7)}])
def test_tensors_of_another_model_are_refused(checkpoint, other):
    with pytest.raises(CheckpointError, match="same model and --lora-rank"):
        load_tensors(checkpoint, other)


def test_it_is_an_ordinary_model_directory(checkpoint, toy_policy):
    loaded = load_policy(str(checkpoint), "cpu")
    for name, value in toy_policy.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name])


def test_tied_weights_are_written_once(checkpoint):
    assert "lm_head.weight" not in load_file(checkpoint / "model.safetensors")


def test_large_models_have_several_files_and_an_index(toy_policy, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FILE_BYTES", 30_000)
    toy_policy.save(tmp_path)
    files = {path.name for path in tmp_path.glob("*.safetensors")}
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(files) > 2 and set(index["weight_map"].values()) == files
    loaded = load_policy(str(tmp_path), "cpu").model.state_dict()
    expected = toy_policy.model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_experts_have_the_names_of_the_hubs_files(tmp_path):
    config = Qwen3MoeConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        moe_intermediate_size=8,
        num_experts=2,
        num_experts_per_tok=1,
        tie_word_embeddings=False,
    )
    model = Qwen3MoeForCausalLM(config)
    (tmp_path / "ours").mkdir()
    weights.save_weights(tmp_path / "ours", model, Ranks("cpu"))
    model.save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / n / "model.safetensors") for n in ("ours", "theirs"))
    assert "model.layers.0.mlp.experts.0.gate_proj.weight" in ours
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_kill_between_the_renames_of_a_replacement_loses_nothing(checkpoint):
    checkpoint.rename(checkpoint.with_name(".step-000001.replaced"))
    restore_replaced(checkpoint)
    assert load_state(checkpoint) == {"step": 1}


def test_a_damaged_state_is_reported(checkpoint):
    state = checkpoint / "trainer/state.json"
    state.write_text("#" * state.stat().st_size)
    with pytest.raises(CheckpointError, match=r"state\.json.*started again"):
        load_state(checkpoint)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "trainer/state.json", "trainer/__0_0.distcp", "config.json"]
)
def test_truncated_file_is_named(checkpoint, name):
    file = checkpoint / name
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=f"{name} is damaged.*started again"):
        load_state(checkpoint)


def test_damage_names_the_earlier_checkpoint(checkpoint, toy_policy):
    later = checkpoint.with_name("step-000002")
    save(later, toy_policy, 2)
    (later / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="continue from step-000001"):
        load_state(later)


@pytest.mark.parametrize("part", ["save", "put_in_place"])
def test_interrupted_write_leaves_no_checkpoint(toy_policy, tmp_path, monkeypatch, part):
    def full_disk(*args, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, part, full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        save(tmp_path / "step-000001", toy_policy)
    assert list(tmp_path.iterdir()) == []


def test_rewriting_replaces(checkpoint, toy_policy):
    save(checkpoint, toy_policy, 7)
    assert load_state(checkpoint) == {"step": 7}
    assert list_checkpoints(checkpoint.parent) == list(checkpoint.parent.iterdir()) == [checkpoint]


def test_a_checkpoint_of_an_earlier_version_is_refused_with_the_remedy(checkpoint):
    (checkpoint / "trainer_state.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"earlier version.*--model .*step-000001"):
        load_state(checkpoint)


def test_shards_of_an_earlier_version_are_refused_as_a_model(checkpoint):
    (checkpoint / "shards").mkdir()
    with pytest.raises(PolicyError, match="that version's export"):
        load_policy(str(checkpoint), "cpu")
