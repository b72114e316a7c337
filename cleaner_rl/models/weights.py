"""Weights: writing a model's tensors as the safetensors files of a Hugging Face directory."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from cleaner_rl.distributed.fsdp import whole
from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.models.lora import adapted_layers, plain_name

FILE_BYTES = 4 * 1024**3
"""Largest size of a file; a larger tensor gets a file of its own."""
_INDEX = "model.safetensors.index.json"


@torch.no_grad()
def save_weights(directory: Path, model: Any, ranks: Ranks) -> None:
    """Write the weights of the equivalent plain model: LoRA adapters are merged, and names and
    shapes are those of the hub's files even where transformers changes them in memory.

    Every rank has to call this. Sharded weights are gathered one at a time, and the first rank
    holds those of one file at most.
    """
    layers = adapted_layers(model)
    weights = plain_weights(model)
    sizes = {n: torch.empty(w.shape, dtype=w.dtype, device="meta") for n, w in weights.items()}
    plan = split_torch_state_dict_into_shards(sizes, max_shard_size=FILE_BYTES)
    files: dict[str, str] = {}
    for file, names in plan.filename_to_tensors.items():
        held: dict[str, Tensor] = {}
        for name in names:
            weight = weights[name]
            if (layer := layers.get(name)) is not None:
                weight = weight + sum(layer.get_delta_weight(a) for a in layer.lora_A)
            gathered = whole(weight).contiguous()
            if ranks.first:
                held[name] = gathered.cpu()
        held = revert_weight_conversion(model, held)
        files |= dict.fromkeys(held, file)
        ranks.on_first(partial(_write, directory / file, held))
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": files}
        text = json.dumps(index, indent=2)
        ranks.on_first(lambda: (directory / _INDEX).write_text(text, encoding="utf-8"))


def plain_weights(model: Any) -> dict[str, Tensor]:
    """Parameters and buffers without adapters, under the names of a plain model; tied ones once."""
    seen: set[int] = set()
    weights = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if ".lora_" not in name and id(tensor) not in seen:
            seen.add(id(tensor))
            weights[plain_name(name)] = tensor.detach()
    return weights


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    file.touch()
    mode = file.stat().st_mode  # safetensors makes it 0600, whatever the umask
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(mode)
