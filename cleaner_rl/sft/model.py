"""The model of a cold start: a small one from scratch, or a pretrained one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from cleaner_env.chat import ChatCodec
from cleaner_rl.agreement import check_agreement
from cleaner_rl.errors import UserError
from cleaner_rl.models.policy import KNOWS_TOOL, Policy, load_policy
from cleaner_rl.runs.files import read_json, whole_directory, write_json
from cleaner_rl.sft.config import ModelArgs

BUILD = "build.json"
"""File next to a policy's weights that records what it was built from, and with which settings."""
_CALL_FORM = (
    "{%- set form_of_tool_calls = '<tool_call>\\n"
    """{"name": <name>, "arguments": <object>}\\n</tool_call>' %}"""
)
"""Renders nothing, but tells whoever inspects the chat template how calls are written."""


def build_model(tokenizer: Any, shape: ModelArgs, seed: int) -> Any:
    """A Qwen3-architecture model with random weights."""
    disable_progress_bar()
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


def load_base(name: str, device: str, max_tokens: int) -> Policy:
    """A pretrained model, ready to learn the tool without a system prompt that explains it.

    A model that could not be trained afterwards is refused.

    Its configuration is marked accordingly, so that training and evaluation omit the prompt. If its
    chat template shows no tool-call format, the template is extended to name the Hermes format.
    """
    policy = load_policy(name, device)
    check_agreement(policy, min(max_tokens, policy.context_length))
    setattr(policy.model.config, KNOWS_TOOL, True)
    template = policy.tokenizer.chat_template
    if policy.codec.tool_format is None and isinstance(template, str):
        policy.tokenizer.chat_template = _CALL_FORM + template
        policy.codec = ChatCodec(policy.tokenizer, policy.codec.stop_ids)
    return policy


def save_policy(policy: Policy, build: dict[str, Any], out: Path) -> None:
    """Write a Hugging Face directory and its ``build.json``, completely or not at all.

    Weights are stored in half precision, but the configuration says float32, so they are loaded as
    float32.
    """
    with whole_directory(out) as directory:
        policy.model.half()
        policy.save(directory)
        policy.model.float()
        config = directory / "config.json"
        write_json(config, {**read_json(config), "dtype": "float32"})
        write_json(directory / BUILD, build)


def check_out(out: Path, overwrite: bool) -> None:
    """Refuse, before any work, an output directory that must not be written."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a directory")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise UserError(
                f"--out {out} is not empty; add --overwrite to replace it, or name another"
            )
        if not (out / "tokenizer.json").exists() or (out / "checkpoints").exists():
            raise UserError(
                f"--out {out} holds something other than a policy, which --overwrite would delete; "
                "name another directory"
            )
