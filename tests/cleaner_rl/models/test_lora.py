"""LoRA: the adapters are trained, the base is not, and what is saved is a plain model."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.errors import CheckpointError, PolicyError
from cleaner_rl.learner.logprobs import token_logprobs
from cleaner_rl.learner.packing import Pack
from cleaner_rl.learner.update import Updater
from cleaner_rl.models.lora import (
    adapter_state,
    adapters_off,
    add_lora,
    has_lora,
)
from cleaner_rl.models.policy import load_policy
from cleaner_rl.models.weights import plain_weights, save_weights
from cleaner_rl.runs.checkpoint import load_tensors, save_checkpoint
from cleaner_rl.settings import UpdateConfig
from cleaner_rl.train import main


@pytest.fixture
def adapted(toy_policy):
    add_lora(toy_policy.model, rank=4, alpha=8.0)
    return toy_policy


def trained(policy, samples, **settings):
    config = UpdateConfig(learning_rate=1e-2, warmup_steps=0, **settings)
    updater = Updater(policy.model, config)
    return updater, [updater.update([samples]) for _ in range(2)]


def test_adapters_change_nothing_before_the_first_update(toy_policy, samples):
    before = token_logprobs(toy_policy.model, Pack.of(samples))[0]
    add_lora(toy_policy.model, rank=4, alpha=8.0)
    assert torch.equal(token_logprobs(toy_policy.model, Pack.of(samples))[0], before)


def test_only_adapters_are_trained(adapted, samples):
    before = {name: p.detach().clone() for name, p in adapted.model.named_parameters()}
    trained(adapted, samples)
    changed = {
        name for name, p in adapted.model.named_parameters() if not torch.equal(p, before[name])
    }
    assert changed == set(adapter_state(adapted.model))


def test_a_saved_model_is_plain_and_gives_the_same_numbers(adapted, samples, tmp_path):
    trained(adapted, samples)
    adapted.save(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert not has_lora(plain)
    assert {name for name, _ in plain.named_parameters()} <= set(plain_weights(adapted.model))
    row = Pack.of(samples)
    torch.testing.assert_close(
        token_logprobs(plain, row)[0], token_logprobs(adapted.model, row)[0], rtol=1e-4, atol=1e-4
    )


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")  # peft's own
def test_experts_are_adapted_and_saved_under_their_plain_names(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    config = Qwen3MoeConfig(vocab_size=64, num_hidden_layers=2, **sizes, **experts)
    model = Qwen3MoeForCausalLM(config).eval()
    add_lora(model, rank=4, alpha=8.0)
    assert any(".experts." in name for name in adapter_state(model))
    ids = torch.arange(12)[None]
    with torch.no_grad():
        before = model(ids).logits
        for parameter in adapter_state(model).values():
            parameter.normal_()
        config.save_pretrained(tmp_path)
        save_weights(tmp_path, model, Ranks())
        plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
        logits = plain(ids).logits
        assert (logits - before).abs().max() > 0.1
        torch.testing.assert_close(logits, model(ids).logits, rtol=1e-4, atol=1e-4)


def test_saving_leaves_the_adapters_as_they_were(adapted, samples, tmp_path):
    trained(adapted, samples)
    before = token_logprobs(adapted.model, Pack.of(samples))[0]
    adapted.save(tmp_path)
    assert torch.equal(token_logprobs(adapted.model, Pack.of(samples))[0], before)


def test_with_adapters_off_the_model_is_the_base(toy_policy, samples):
    row = Pack.of(samples)
    base = token_logprobs(toy_policy.model, row)[0]
    add_lora(toy_policy.model, rank=4, alpha=8.0)
    trained(toy_policy, samples)
    assert not torch.equal(token_logprobs(toy_policy.model, row)[0], base)
    with adapters_off(toy_policy.model):
        assert torch.equal(token_logprobs(toy_policy.model, row)[0], base)


def test_the_base_is_the_reference_of_the_kl_term(adapted, samples):
    _, (first, second) = trained(adapted, samples, kl_coefficient=0.1)
    assert first["reference_kl"] == pytest.approx(0, abs=1e-7)
    assert second["reference_kl"] > 1e-6


def test_state_continues_the_updates_exactly(toy_policy, samples):
    base = copy.deepcopy(toy_policy.model)
    add_lora(toy_policy.model, rank=4, alpha=8.0)
    updater, _ = trained(toy_policy, samples)
    state, tensors = copy.deepcopy((updater.state(), updater.tensors()))
    updater.update([samples])
    add_lora(base, rank=4, alpha=8.0)
    resumed = Updater(base, UpdateConfig(learning_rate=1e-2, warmup_steps=0))
    resumed.load_state(state)
    for name, tensor in resumed.tensors().items():
        tensor.copy_(tensors[name])
    resumed.update([samples])
    expected, got = adapter_state(toy_policy.model), adapter_state(base)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_adapters_of_another_rank_are_refused(toy_policy, tmp_path):
    base = copy.deepcopy(toy_policy.model)
    add_lora(toy_policy.model, rank=4, alpha=8.0)
    saved = Updater(toy_policy.model, UpdateConfig())
    save_checkpoint(
        tmp_path / "step-000001", toy_policy, saved.model, saved.tensors(), {}, saved.ranks
    )
    add_lora(base, rank=2, alpha=8.0)
    with pytest.raises(CheckpointError, match="--lora-rank"):
        load_tensors(tmp_path / "step-000001", Updater(base, UpdateConfig()).tensors())


def test_a_changed_base_is_noticed(tmp_path, toy_policy):
    toy_policy.save(tmp_path / "model")
    run = tmp_path / "run"
    arguments = [
        *("--model", str(tmp_path / "model"), "--system-prompt", "none", "--steps", "1"),
        *("--prompts", "1", "--minibatch-prompts", "1", "--group-size", "2", "--eval-tasks", "0"),
        *("--max-turn-tokens", "4", "--max-response-tokens", "8", "--lora-rank", "2"),
    ]
    assert main(["--run-dir", str(run), *arguments]) == 0
    with torch.no_grad():
        for parameter in toy_policy.model.parameters():
            parameter.mul_(1.01)
    toy_policy.save(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"model'.*its adapters\), has changed since"):
        main(["--resume", str(run), "--steps", "2"])


def test_without_peft_the_remedy_is_named(toy_policy, monkeypatch):
    monkeypatch.setattr("cleaner_rl.models.lora.find_spec", lambda name: None)
    with pytest.raises(PolicyError, match=r"pip install -e '\.\[lora\]'"):
        add_lora(toy_policy.model, rank=4, alpha=8.0)


def test_a_run_with_lora_resumes_to_the_bit(tmp_path, toy_policy, monkeypatch):
    toy_policy.save(tmp_path / "model")
    # A random policy never earns anything; this reward differs within groups.
    monkeypatch.setattr("cleaner_rl.train._reward", lambda e, *_: float(len(e.turns[0].text)))

    def run(name, steps):
        arguments = [
            *("--run-dir", str(tmp_path / name), "--steps", str(steps), "--lora-rank", "4"),
            *("--model", str(tmp_path / "model"), "--system-prompt", "none"),
            *("--kl-coefficient", "0.1", "--max-turn-tokens", "8", "--max-response-tokens", "24"),
            *("--prompts", "2", "--minibatch-prompts", "1", "--group-size", "2"),
            *("--eval-tasks", "0", "--save-every", "1"),
        ]
        assert main(arguments) == 0

    def checkpoint(name):
        directory = tmp_path / name / "checkpoints" / "step-000002"
        policy = load_policy(str(tmp_path / "model"), "cpu")
        add_lora(policy.model, rank=4, alpha=8.0)
        adapters = {name: p.detach() for name, p in adapter_state(policy.model).items()}
        load_tensors(directory, adapters)
        return adapters | load_file(directory / "model.safetensors")

    run("whole", 2)
    run("resumed", 1)
    assert main(["--resume", str(tmp_path / "resumed"), "--steps", "2"]) == 0
    whole, resumed = checkpoint("whole"), checkpoint("resumed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    rows = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(row)["grad_norm"] > 0 for row in rows)
