"""The memory estimate, against what torch really keeps."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from cleaner_rl.grpo.samples import Sample
from cleaner_rl.learner.logprobs import token_logprobs
from cleaner_rl.learner.packing import Pack
from cleaner_rl.models import memory
from cleaner_rl.models.memory import ModelShape, activation_bytes, available_memory, estimate_memory

TOKENS = 400


def config_of(kind, hidden, heads, keys, head, intermediate, layers=2):
    return kind(
        vocab_size=64,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        head_dim=head,
        intermediate_size=intermediate,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )


def kept_bytes(model, precision):
    """Bytes that one forward pass keeps for the backward pass, parameters not counted."""
    length = TOKENS // 4
    ids, mask, zeros = (1,) * length, (False, *[True] * (length - 1)), (0.0,) * length
    pack = Pack.of([Sample(ids, mask, zeros, zeros, (False,) * length)] * 4, share=False)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    shapes = {p.shape for p in model.parameters()} | {
        p.t().shape for p in model.parameters() if p.dim() == 2
    }
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters and tensor.shape not in shapes:
            kept[storage.data_ptr()] = tensor
        return tensor

    block = nullcontext() if precision == "float32" else torch.autocast("cpu", torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), block:
        token_logprobs(model, pack)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sizes", [(64, 4, 2, 16, 128), (64, 4, 4, 16, 512), (64, 4, 1, 64, 128), (128, 4, 2, 16, 128)]
)
@pytest.mark.parametrize(
    ("kind", "architecture"), [(Qwen3Config, Qwen3ForCausalLM), (LlamaConfig, LlamaForCausalLM)]
)
def test_activations_are_what_torch_keeps(kind, architecture, sizes, precision):
    """Two models that differ in their number of layers: what they share drops out."""
    kept = [kept_bytes(architecture(config_of(kind, *sizes, n)), precision) for n in (1, 3)]
    counted = (kept[1] - kept[0]) / 2 / TOKENS
    estimated = activation_bytes(ModelShape.of(config_of(kind, *sizes)), precision)
    assert estimated == pytest.approx(counted, rel=0.1)


def test_a_shape_counts_tied_parameters_once():
    config = config_of(Qwen3Config, 64, 4, 2, 16, 128)
    shape = ModelShape.of(config)
    model = Qwen3ForCausalLM(config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert (shape.queries, shape.keys, shape.normed_queries) == (64, 32, True)


def test_sampling_and_learning_take_turns():
    shape = ModelShape.of(config_of(LlamaConfig, 64, 4, 2, 16, 128))
    small = estimate_memory(shape, "float32", 100, 1, 1)
    assert small.total == 16 * shape.parameters + small.activations + small.logits
    wide = estimate_memory(shape, "float32", 100, 1000, 1000)
    assert wide.total == 16 * shape.parameters + wide.cache
    assert wide.cache == 1000 * 1000 * 2 * 2 * 32 * 4


def test_half_precision_adds_two_copies_of_the_weights():
    shape = ModelShape.of(config_of(LlamaConfig, 64, 4, 2, 16, 128))
    full, half = (estimate_memory(shape, p, 100, 1, 1) for p in ("float32", "float16"))
    assert half.weights - full.weights == 4 * shape.parameters
    assert half.activations < full.activations


def test_logits_are_those_of_as_many_tokens_as_are_held_at_a_time(monkeypatch):
    config = config_of(LlamaConfig, 64, 4, 2, 16, 128)
    monkeypatch.setattr(memory, "_CHUNK_NUMBERS", 10 * config.vocab_size)
    model, held = LlamaForCausalLM(config), []
    model.lm_head.register_forward_hook(lambda head, given, logits: held.append(logits.numel()))
    kept_bytes(model, "float32")
    shape = ModelShape.of(config)
    assert max(held) == 10 * config.vocab_size
    assert estimate_memory(shape, "float32", TOKENS, 1, 1).logits == 3 * 4 * max(held)


def test_a_gradient_in_place_of_the_logits_allows_more_of_them():
    shape = replace(ModelShape.of(config_of(LlamaConfig, 64, 4, 2, 16, 128)), vocabulary=151_936)
    plain, in_place = (
        estimate_memory(shape, "bfloat16", 32_768, 1, 1, way).logits for way in (False, True)
    )
    assert plain == pytest.approx(2**26 * (3 * 4 + 2), rel=0.01)
    assert in_place == pytest.approx(2**29 * 2, rel=0.01)


def test_available_memory_is_positive():
    assert available_memory(torch.device("cpu")) > 2**20
