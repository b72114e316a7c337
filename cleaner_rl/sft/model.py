"""The model that a cold start trains: a small one from scratch, or one that is gone on from."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from cleaner_rl.chat import ChatCodec
from cleaner_rl.models.policy import KNOWS_TOOL, Policy, load_policy
from cleaner_rl.sft.config import ModelArgs

__all__ = ["build_model", "load_base"]

_CALL_FORM = (
    "{%- set form_of_tool_calls = '<tool_call>\\n"
    """{"name": <name>, "arguments": <object>}\\n</tool_call>' %}"""
)
"""Renders nothing: it says in a chat template how calls are written, where it is looked for."""


def build_model(tokenizer: Any, shape: ModelArgs, seed: int) -> Any:
    """A Qwen3-architecture model with random weights."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=32,
        intermediate_size=shape.mlp_size,
        max_position_embeddings=shape.max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.04,
        **{KNOWS_TOOL: True},
    )
    return Qwen3ForCausalLM(config).float()


def load_base(name: str, device: str) -> Policy:
    """A pretrained model, ready to learn the tool without a system prompt that explains it.

    Its configuration is marked accordingly, so that training and evaluation leave the prompt out.
    Where its chat template shows no tool-call format, it says from now on that calls are Hermes's.

    Raises:
        PolicyError: there is no such model, or it cannot be read or used.
    """
    policy = load_policy(name, device)
    setattr(policy.model.config, KNOWS_TOOL, True)
    template = policy.tokenizer.chat_template
    if policy.codec.tool_format is None and isinstance(template, str):
        policy.tokenizer.chat_template = _CALL_FORM + template
        policy.codec = ChatCodec(policy.tokenizer, policy.codec.stop_ids)
    return policy
