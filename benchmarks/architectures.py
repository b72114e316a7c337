"""Which architectures of transformers can be sampled and trained here: a small model of each.

``python benchmarks/architectures.py`` builds every causal language model that transformers knows
with random weights and small sizes, and prints the tables of docs/training-reference.md. Windows
are shorter than the sequences, so that they matter. ``--only qwen3 gemma2`` tries some.
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from cleaner_rl.agreement import check_agreement
from cleaner_rl.errors import PolicyError
from cleaner_rl.models.policy import BUNDLED, Policy, load_codec, load_tokenizer

LENGTH = 400
"""The most tokens of an episode."""
MOST_PARAMETERS = 8_000_000
"""An architecture that the sizes below leave larger than this is not tried."""
SIZES: dict[int, tuple[str, ...]] = {
    2: (
        *("num_key_value_heads", "num_kv_heads", "num_experts_per_tok", "num_experts_per_token"),
        *("moe_topk", "moe_k", "linear_num_key_heads"),
    ),
    4: (
        *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_attention_heads"),
        *("n_head", "n_heads", "num_heads", "num_local_experts", "num_experts"),
        *("n_routed_experts", "moe_num_experts", "linear_num_value_heads", "qk_rope_head_dim"),
        *("qk_nope_head_dim", "rotary_dim", "mamba_n_heads", "mamba_num_heads", "mamba_d_state"),
        *("state_size", "ssm_state_size", "time_step_rank", "laurel_rank"),
    ),
    6: ("sliding_window", "window_size"),
    8: (
        *("head_dim", "kv_channels", "v_head_dim", "qk_head_dim", "global_head_dim"),
        *("linear_key_head_dim", "linear_value_head_dim", "hidden_size_per_layer_input"),
        *("attention_chunk_size", "chunk_size", "mamba_chunk_size"),
    ),
    16: (
        *("moe_intermediate_size", "shared_expert_intermediate_size", "q_lora_rank"),
        *("kv_lora_rank", "mamba_d_head", "mamba_head_dim"),
    ),
    32: (
        "hidden_size",
        "n_embd",
        "d_model",
        "dim",
        "embed_dim",
        "word_embed_proj_dim",
        "lru_width",
    ),
    48: ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size"),
    512: ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"),
    1: (
        *("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace", "n_groups"),
        *("mamba_n_groups", "bos_token_id"),
    ),
    0: ("num_kv_shared_layers", "pad_token_id"),
}


def small_model(kind: str, vocabulary: int) -> Any:
    """A model with random weights, large enough for differences to show.

    Raises:
        Exception: of whatever kind the architecture raises, if these sizes do not suit it.
    """
    plain = CONFIG_MAPPING[kind]()
    names = {*plain.to_dict(), *plain.attribute_map}
    sizes = {name: size for size, of_size in SIZES.items() for name in of_size if name in names}
    if getattr(plain, "layer_types", None) is not None:
        sizes["layer_types"] = (list(dict.fromkeys(plain.layer_types)) * 4)[:4]
    sizes |= {name: 0.0 for name in names if "dropout" in name or name.endswith("pdrop")}
    for name in ("vocab_size", "vocab_size_per_layer_input"):
        sizes |= {name: vocabulary} if name in names else {}
    config = CONFIG_MAPPING[kind](**sizes, eos_token_id=2)
    with torch.device("meta"):
        count = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if count > MOST_PARAMETERS:
        raise ValueError(f"{count} parameters")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.25)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    kinds = parser.parse_args().only
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    tokenizer = load_tokenizer(BUNDLED)
    codec = load_codec(tokenizer)
    works, untried = [], []
    refused: dict[str, list[str]] = defaultdict(list)
    for kind in sorted(kinds):
        try:
            model = small_model(kind, len(tokenizer))
        except Exception:  # of whatever kind: see there
            untried.append(kind)
            continue
        try:
            check_agreement(Policy(model, tokenizer, codec, kind), LENGTH)
            works.append(kind)
        except PolicyError as error:
            refused[_reason(str(error))].append(kind)
    print(f"transformers {transformers.__version__}\n")
    print(f"Sampled and trained, {len(works)}: {', '.join(works)}.\n")
    print("| refused because | architectures |\n|---|---|")
    for reason, of_reason in sorted(refused.items(), key=lambda item: -len(item[1])):
        print(f"| {reason} | {', '.join(of_reason)} |")
    print(f"\nNot tried, as they cannot be built at these sizes: {', '.join(untried)}.")


def _reason(message: str) -> str:
    """The kind of a refusal, without the numbers of one model."""
    done = "trained" if "cannot be trained" in message else "sampled"
    if "off by" in message:
        if "beyond" in message:
            return f"its numbers differ beyond a window when {done}"
        return f"its numbers differ when {done}"
    if "do not pass on" in message:
        return "its layers do not pass on what attention needs"
    if "sinks" in message:
        return "it has attention sinks"
    return f"it fails when {done}: it has a cache, mask or shapes of its own"


if __name__ == "__main__":
    main()
