"""The start-up check: what sampler or packed rows would compute wrong is refused, and why."""

from dataclasses import replace

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from cleaner_rl.agreement import check_agreement
from cleaner_rl.errors import PolicyError
from cleaner_rl.models.policy import context_length
from cleaner_rl.sft import model as sft_model

SMALL = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 101},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
    **{"initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}


@pytest.fixture
def policy_of(toy_policy):
    def policy_of(kind, **more):
        torch.manual_seed(0)
        config = CONFIG_MAPPING[kind](**{**SMALL, **more})
        return replace(toy_policy, model=AutoModelForCausalLM.from_config(config).eval())

    return policy_of


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama", {}),
        ("mistral", {"sliding_window": 20}),
        ("qwen3_moe", {"num_experts": 4, "moe_intermediate_size": 16, **EXPERTS}),
        ("jetmoe", {"kv_channels": 8, "num_key_value_heads": 2, **EXPERTS}),
    ],
)
def test_models_that_are_computed_right_pass(policy_of, kind, more):
    check_agreement(policy_of(kind, **more), 400, shared=True)


def test_prefixes_that_would_be_shared_wrong_are_refused_with_the_remedy(policy_of, monkeypatch):
    monkeypatch.setattr("cleaner_rl.learner.attention._masked", lambda *_: False)
    policy = policy_of("llama")
    check_agreement(policy, 400)
    with pytest.raises(PolicyError, match=r"cannot share prefixes: .* --no-share-prefixes"):
        check_agreement(policy, 400, shared=True)


def test_a_window_that_stands_in_the_mask_alone_is_refused(policy_of):
    policy = policy_of("phimoe", sliding_window=20, **EXPERTS)
    with pytest.raises(PolicyError, match=r"PhimoeForCausalLM\) cannot be sampled .* beyond 20 to"):
        check_agreement(policy, 400)
    assert policy.model.config.sliding_window == 20


def test_a_window_that_no_episode_exceeds_passes(policy_of):
    check_agreement(policy_of("phimoe", sliding_window=20, **EXPERTS), 20)


@pytest.mark.parametrize(
    ("kind", "more", "reason"),
    [
        ("cohere", {}, r"a CohereForCausalLM\) cannot be trained here: its log-prob.* scaled or"),
        ("gemma2", {"final_logit_softcapping": 0.5, "head_dim": 8}, "scaled or capped logits"),
        ("stablelm", {}, r"a StableLmForCausalLM\) cannot be sampled"),
        ("nemotron", {}, r"a NemotronForCausalLM\) cannot be sampled"),
    ],
)
def test_other_architectures_are_refused_by_name(policy_of, kind, more, reason):
    with pytest.raises(PolicyError, match=reason):
        check_agreement(policy_of(kind, **more), 400)


def test_capped_logits_may_still_be_sampled(policy_of):
    policy = policy_of("gemma2", final_logit_softcapping=0.5, head_dim=8)
    check_agreement(policy, 400, trained=False)


def test_a_cold_start_of_a_model_with_scaled_logits_is_refused(policy_of, monkeypatch):
    monkeypatch.setattr(
        sft_model, "load_policy", lambda *_: policy_of("granite", logits_scaling=8.0)
    )
    with pytest.raises(PolicyError, match="GraniteForCausalLM"):
        sft_model.load_base("base", "cpu", 400)


def test_longrope_is_computed_up_to_its_original_length_only(policy_of):
    rope = {
        **{"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 32},
        **{
            "factor": 16.0,
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [4.0, 5.0, 6.0, 8.0],
        },
    }
    policy = policy_of("phi3", rope_parameters=rope, original_max_position_embeddings=32)
    assert context_length(policy.model.config) == 32
    check_agreement(policy, 32)
    with pytest.raises(PolicyError, match="beyond 32 tokens"):
        check_agreement(policy, 33)


def test_a_model_whose_numbers_are_not_finite_is_refused(toy_policy):
    with torch.no_grad():
        toy_policy.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(PolicyError, match="not finite"):
        check_agreement(toy_policy, 400)
