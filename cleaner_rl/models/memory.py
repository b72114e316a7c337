"""Memory: an estimate of how much training a model takes, and errors when it runs out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM

from cleaner_rl.errors import MemoryLimitError
from cleaner_rl.settings import Precision

_WEIGHTS = 4
_GRADIENTS = 4
_OPTIMISER = 8
"""Bytes per parameter: float32 weights and gradients, AdamW's two float32 moments."""
_CHUNK_TOKENS = 4096
_CHUNK_NUMBERS = 2**26
"""Logits held at a time: 256 MiB in float32. The gradient needs a few arrays of this size."""
_CHUNK_NUMBERS_IN_PLACE = 2**29
"""The same where the gradient overwrites the logits: 1 GiB in half precision."""
_LOGIT_COPIES = 3
"""float32 arrays of that size where it does not: logits, log-softmax and its exponential."""
_CACHE_SHARE = 0.25
"""Share of the device's memory that cached tokens may take when no budget is given."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes that memory depends on; tied parameters are counted once.

    Attributes:
        queries: query heads times head size.
        keys: key-value heads times head size.
        normed_queries: whether queries and keys are normalised, as in Qwen3.
    """

    parameters: int
    layers: int
    hidden: int
    queries: int
    keys: int
    intermediate: int
    vocabulary: int
    normed_queries: bool

    @classmethod
    def of(cls, config: Any) -> ModelShape:
        """The shape of a transformers configuration's model, of which no weights are allocated."""
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        text = config.get_text_config()
        return cls(
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            queries=text.num_attention_heads * head_size(config),
            keys=_key_numbers(config),
            intermediate=text.intermediate_size,
            vocabulary=text.vocab_size,
            normed_queries=any("q_norm" in name for name, _ in model.named_parameters()),
        )


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes. Learning and sampling take turns, so only the larger of the two counts.

    Attributes:
        weights: in float32; in half precision also the sampler's copy and what autocast keeps for
            the backward pass.
        activations: those of one pack, without gradient checkpointing.
        logits: those of one chunk of a pack.
        cache: keys and values of the conversations decoded together, at their full length.
    """

    weights: int
    gradients: int
    optimiser: int
    activations: int
    logits: int
    cache: int

    @property
    def total(self) -> int:
        """Weights, gradients and optimiser, plus the larger of learning and sampling."""
        fixed = self.weights + self.gradients + self.optimiser
        return fixed + max(self.activations + self.logits, self.cache)


def estimate_memory(
    shape: ModelShape,
    precision: Precision,
    pack_tokens: int,
    batch: int,
    context: int,
    in_place: bool = False,
) -> MemoryEstimate:
    """Estimate a training that decodes ``batch`` conversations of ``context`` tokens together.

    ``in_place``: the gradient overwrites the logits, as it does with Triton.
    """
    number = getattr(torch, precision).itemsize
    half = precision != "float32"
    logit = number if in_place else 4 * _LOGIT_COPIES + number * half
    return MemoryEstimate(
        weights=shape.parameters * (_WEIGHTS + 2 * 2 * half),
        gradients=shape.parameters * _GRADIENTS,
        optimiser=shape.parameters * _OPTIMISER,
        activations=pack_tokens * shape.layers * activation_bytes(shape, precision),
        logits=min(pack_tokens, logit_chunk(shape.vocabulary, in_place)) * shape.vocabulary * logit,
        cache=batch * context * shape.layers * 2 * shape.keys * number,
    )


def logit_chunk(vocabulary: int, in_place: bool) -> int:
    """Tokens whose logits are held at a time; ``in_place``: the gradient overwrites them."""
    numbers = _CHUNK_NUMBERS_IN_PLACE if in_place else _CHUNK_NUMBERS
    return max(1, min(_CHUNK_TOKENS, numbers // vocabulary))


def activation_bytes(shape: ModelShape, precision: Precision) -> int:
    """Bytes that one layer keeps for each token until the backward pass.

    The coefficients were counted with torch's saved-tensor hooks on Llama and Qwen3 layers, and a
    test counts them again. RMSNorm computes in float32 whatever the precision, half-precision
    layers add to a half-precision residual, and keys and values are repeated for each query head.
    Fused kernels keep less.
    """
    wide = shape.queries + shape.keys if shape.normed_queries else 0
    if precision == "float32":
        return 24 * shape.hidden + 20 * shape.queries + 16 * shape.intermediate + 8 * wide
    return 22 * shape.hidden + 10 * shape.queries + 8 * shape.intermediate + 6 * wide


def head_size(config: Any) -> int:
    text = config.get_text_config()
    size: int = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return size


def _key_numbers(config: Any) -> int:
    """Size of a token's key, or value, in one layer: that of all key-value heads."""
    text = config.get_text_config()
    heads: int = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return heads * head_size(config)


def available_memory(device: torch.device) -> int:
    """Bytes free on the device; for a CPU, what Linux calls available."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    with open("/proc/meminfo", encoding="ascii") as stream:
        for line in stream:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo does not say how much memory is available")


def tokens_in_memory(config: Any, device: torch.device, precision: Precision, least: int) -> int:
    """Tokens whose keys and values fit in a quarter of the device's memory, at least ``least``."""
    if device.type == "cuda":
        memory = torch.cuda.mem_get_info(device)[1]
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    layers = config.get_text_config().num_hidden_layers
    bytes_each: int = 2 * layers * _key_numbers(config) * getattr(torch, precision).itemsize
    return max(int(_CACHE_SHARE * memory) // bytes_each, least)


Phase = Literal["sampling", "learning"]

_REMEDIES: dict[Phase, str] = {
    "sampling": "lower --sample-batch (sft: --eval-batch), the number of episodes decoded together",
    "learning": "lower --pack-tokens, add --gradient-checkpointing, or use more GPUs (torchrun)",
}
_CPU_ALLOCATOR = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


@contextmanager
def memory_errors(phase: Phase, device: torch.device) -> Iterator[None]:
    """Turn running out of memory inside the block into an error that names the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch's CPU allocator has no exception type of its own.
        of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not of_memory and not any(part in str(error) for part in _CPU_ALLOCATOR):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MemoryLimitError(
            f"out of memory on {device} while {phase}: {_REMEDIES[phase]} (a resumed run may "
            f"change these settings). {reason}"
        ) from error
