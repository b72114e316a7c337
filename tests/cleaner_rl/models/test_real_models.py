"""Models of the families that people train: loaded, sampled from, trained and saved again."""

import pytest
import templates
import torch
from transformers import (
    BloomConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from cleaner_env import Task
from cleaner_rl.config import TrainConfig
from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.errors import PolicyError
from cleaner_rl.grpo.groups import minibatch_samples
from cleaner_rl.inference.sampler import Sampler
from cleaner_rl.learner.update import Updater
from cleaner_rl.models.memory import ModelShape
from cleaner_rl.models.policy import context_length, load_policy
from cleaner_rl.rollout.rollout import Rollout
from cleaner_rl.settings import EpisodeConfig, UpdateConfig
from cleaner_rl.sft.tokenizer import train_tokenizer
from cleaner_rl.train import compared
from cleaner_rl.trainer import check_policy

CORPUS = ["What is 3 + 4? The answer is \\boxed{7}.", "import math\nprint(math.gcd(6, 4))"] * 4
SHAPE = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,
}
LLAMA3 = (templates.LLAMA3, templates.LLAMA3_TOKENS, "<|eot_id|>")
HERMES = (templates.HERMES, (), "<|im_end|>")
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def gemma3(eos_token_id, **shape):
    """The configuration of Gemma 3 from 4B up: a text model and one for pictures."""
    text = {**shape, "head_dim": 16, "sliding_window": 64, "query_pre_attn_scalar": 16}
    return Gemma3Config(
        text_config=text, vision_config=VISION, mm_tokens_per_image=4, eos_token_id=eos_token_id
    )


FAMILIES = {
    "qwen2.5": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}, HERMES, "hermes"),
    "qwen2.5-untied": (
        *(Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": False}),
        *(HERMES, "hermes"),
    ),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}, HERMES, "hermes"),
    "llama3": (
        *(LlamaConfig, LlamaForCausalLM),
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
        *(LLAMA3, "llama3"),
    ),
    "gemma3-4b": (gemma3, Gemma3ForConditionalGeneration, {}, HERMES, "hermes"),
    "smollm2": (LlamaConfig, LlamaForCausalLM, {}, (templates.CHATML, (), "<|im_end|>"), None),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def directory(family, tmp_path):
    """A Hugging Face directory of the family's architecture with random weights."""
    config, model, more, (template, tokens, eos), _ = FAMILIES[family]
    tokenizer = train_tokenizer(CORPUS, 320)
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    tokenizer.eos_token, tokenizer.chat_template = eos, template
    torch.manual_seed(0)
    shape = {**SHAPE, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, **more}
    model(config(**shape)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.filterwarnings("ignore::cleaner_rl.errors.ToolFormatWarning")
def test_load_sample_learn_save_load(family, directory, tmp_path, sandbox):
    policy = load_policy(str(directory), "cpu")
    assert policy.codec.tool_format == FAMILIES[family][-1]
    config = TrainConfig(
        max_prompt_tokens=512, episode=EpisodeConfig(max_turns=2, max_turn_tokens=12)
    )
    check_policy(policy, config)
    assert ModelShape.of(policy.model.config).layers == SHAPE["num_hidden_layers"]
    with Rollout(policy, Sampler(policy, 1.0), config.episode) as rollout:
        group = rollout.play([Task("What is 3 + 4?", "7")] * 2, seed=0)
        minibatches = minibatch_samples(
            [compared(group, [1.0, 0.0], config)],
            1,
            config.credit,
            config.grafted,
            rollout.prompt_ids,
            rollout.observation_ids,
            Ranks(),
        )
    # The parts of Gemma 3 that look at pictures are loaded and saved, and see no gradient.
    text = [p for n, p in policy.model.named_parameters() if "vis" not in n and "multi" not in n]
    before = [p.detach().clone() for p in text]
    learned = Updater(policy.model, UpdateConfig(warmup_steps=0)).update(minibatches)
    # What was sampled is what is trained: packed rows give the sampler's own log-probabilities.
    assert learned["sampled_gap"] < 1e-4
    assert learned["grad_norm"] > 0
    assert not any(map(torch.equal, before, text))
    policy.save(tmp_path / "saved")
    again = load_policy(str(tmp_path / "saved"), "cpu")
    assert again.codec.stop_ids == policy.codec.stop_ids
    ids = torch.tensor([minibatches[0][0].ids])
    with torch.no_grad():
        assert torch.equal(again.model(ids).logits, policy.model(ids).logits)


def test_a_model_that_names_no_context_is_refused_with_a_reason():
    with pytest.raises(PolicyError, match="bloom model does not say how many tokens"):
        context_length(BloomConfig())


def test_a_model_without_hidden_states_is_refused_with_a_reason(toy_policy, monkeypatch):
    """As Llama 4, whose text model is under another name than its class says."""
    monkeypatch.setattr(toy_policy.model, "base_model_prefix", "nothing")
    config = TrainConfig(max_prompt_tokens=8, episode=EpisodeConfig(max_response_tokens=8))
    with pytest.raises(PolicyError, match=r"trained here: .* no attribute 'last_hidden_state'"):
        check_policy(toy_policy, config)
