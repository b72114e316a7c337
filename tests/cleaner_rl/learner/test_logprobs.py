"""Log-probabilities in chunks: the plain formula's numbers and gradients, in little memory."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cleaner_rl.learner.logprobs import _LogProbability, token_logprobs
from cleaner_rl.learner.packing import Pack


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that an operation returned."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for value in tree_leaves(output):
            if isinstance(value, torch.Tensor):
                self.numbers = max(self.numbers, value.numel())
        return output


def plain(logits_NV, ids_N, temperature):
    """Log-probability by the formula, and the entropy."""
    logprobs_NV = (logits_NV.float() / temperature).log_softmax(-1)
    entropies_N = -(logprobs_NV.exp() * logprobs_NV).sum(-1)
    return logprobs_NV.gather(1, ids_N[:, None])[:, 0], entropies_N


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_and_gradient_are_those_of_the_formula(temperature, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 11, generator=generator).mul(3).to(dtype)
    ids = torch.randint(11, (6,), generator=generator)
    weight = torch.randn(6, generator=generator)
    results = []
    for function in (_LogProbability.apply, plain):
        leaf = logits.clone().requires_grad_()
        logprobs, entropies = function(leaf, ids, temperature)
        (logprobs * weight).sum().backward()
        results.append((logprobs, entropies, leaf.grad))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_change_neither_numbers_nor_gradients(toy_policy, samples, chunk):
    model, row = toy_policy.model, Pack.of(samples)
    gradients = []
    for size in (None, chunk):
        model.zero_grad()
        logprobs, entropies = token_logprobs(model, row, chunk=size)
        (logprobs * row.advantages_T).sum().backward()
        gradients.append((logprobs, entropies, [p.grad for p in model.parameters()]))
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_gradients_of_the_model_are_those_of_the_plain_formula(toy_policy, samples):
    model, sample = toy_policy.model, samples[-1]
    row = Pack.of([sample])
    logprobs, _ = token_logprobs(model, row, 0.8, chunk=5)
    (logprobs * row.advantages_T).sum().backward()
    chunked = [p.grad for p in model.parameters()]
    model.zero_grad()
    logits = model(input_ids=row.ids_U[None], use_cache=False).logits[0, :-1]
    (plain(logits, row.ids_U[1:], 0.8)[0] * row.advantages_T[1:]).sum().backward()
    torch.testing.assert_close(chunked, [p.grad for p in model.parameters()], atol=1e-4, rtol=1e-3)


def test_unwanted_tokens_are_zero_and_the_others_unchanged(toy_policy, samples):
    row = Pack.of(samples)
    everything, entropies = token_logprobs(toy_policy.model, row)
    wanted, some = token_logprobs(toy_policy.model, row, wanted_T=row.mask_T)
    torch.testing.assert_close(wanted, everything * row.mask_T)
    torch.testing.assert_close(some, entropies * row.mask_T)


def test_no_token_wanted_still_gives_a_gradient_of_zero(toy_policy, samples):
    row = Pack.of(samples[:1])
    logprobs, _ = token_logprobs(toy_policy.model, row, wanted_T=torch.zeros_like(row.mask_T))
    logprobs.sum().backward()
    assert all((p.grad == 0).all() for p in toy_policy.model.parameters() if p.grad is not None)


def test_no_tensor_of_all_tokens_times_the_vocabulary_is_made(toy_policy, samples):
    model, row = toy_policy.model, Pack.of(samples * 4, share=False)
    vocabulary, tokens, chunk = model.config.vocab_size, len(row.ids_U), 8
    with Largest() as largest:
        logprobs, _ = token_logprobs(model, row, chunk=chunk)
        logprobs.sum().backward()
    limit = max(chunk * vocabulary, *(p.numel() for p in model.parameters()), tokens * 64)
    assert largest.numbers <= limit < tokens * vocabulary / 4
