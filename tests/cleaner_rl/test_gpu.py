"""What only a CUDA device can show: graphs, flash attention over rows, fused kernels."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from cleaner_rl.inference.sampler import Sampler
from cleaner_rl.inference.sampling import Request
from cleaner_rl.learner.update import Updater
from cleaner_rl.models.backends import apply_liger, varlen
from cleaner_rl.settings import UpdateConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]


@pytest.fixture
def gpu_policy(toy_policy):
    return replace(toy_policy, model=copy.deepcopy(toy_policy.model).cuda())


def two_turns(sampler, keys=range(40), rollback=False):
    """Contexts and turns of conversations that take two turns each, one batch after the other. With
    a rollback the second context parts from what was computed for the first."""
    requests = [Request(k, [20 + k, 21, *range(30, 34 + k)], 20 + k, (7, k)) for k in keys]
    played = []
    for turn in range(2):
        for request in requests:
            sampler.submit(request)
        ended = {}
        while sampler.busy:
            ended.update(sampler.advance())
        played += [(request.ids, ended[request.key]) for request in requests]
        requests = [
            Request(r.key, [*r.ids, *ended[r.key].tokens.ids[: 3 if rollback else None], 22, 23],
                    30, (8, r.key, turn))
            for r in requests
        ]  # fmt: skip
    return played


def logprobs_of(model, context, turn):
    row = torch.tensor([[*context, *turn.tokens.ids]], device=model.device)
    logits = model(row).logits[0, len(context) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, row[0, len(context) :, None])[:, 0].cpu()


def test_float32_gives_the_turns_of_a_cpu(toy_policy, gpu_policy):
    here, there = two_turns(Sampler(gpu_policy, max_batch=24)), two_turns(Sampler(toy_policy))
    same = sum(a[1].tokens.ids == b[1].tokens.ids for a, b in zip(here, there, strict=True))
    assert same >= 78  # of 80: a number may fall on the edge between two tokens


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("rollback", [False, True])
def test_logprobs_are_those_of_the_model(gpu_policy, dtype, rollback):
    sampler = Sampler(gpu_policy, max_batch=24, dtype=dtype)
    tolerance = {"float32": 1e-4, "bfloat16": 0.15, "float16": 0.02}[dtype]
    for _ in range(2):  # the second time over with graphs and rows of the first
        for context, turn in two_turns(sampler, rollback=rollback):
            expected = logprobs_of(gpu_policy.model, context, turn)
            got = torch.tensor(turn.tokens.logprobs)
            torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
        sampler.reset()
    assert sampler._graphs._graphs


def test_sampling_uses_new_weights(gpu_policy):
    sampler = Sampler(gpu_policy, dtype="bfloat16")
    two_turns(sampler)
    with torch.no_grad():
        for parameter in gpu_policy.model.parameters():
            parameter.mul_(0.8)
    sampler.reset()
    for context, turn in two_turns(sampler):
        expected = logprobs_of(gpu_policy.model, context, turn)
        got = torch.tensor(turn.tokens.logprobs)
        torch.testing.assert_close(got, expected, atol=0.15, rtol=0.15)


@pytest.mark.parametrize("window", [None, 5])
def test_keys_after_the_filled_cells_are_not_seen(window):
    torch.manual_seed(0)
    cells, used, queries = 16, [16, 3, 9], [1, 2, 4]
    q, k, v = (
        torch.randn(n, heads, 64, device="cuda", dtype=torch.bfloat16)
        for n, heads in ((sum(queries), 4), (3 * cells, 2), (3 * cells, 2))
    )
    ends = torch.tensor([0, *queries], device="cuda").cumsum(0).int()
    rooms = torch.arange(4, device="cuda", dtype=torch.int32) * cells
    count = torch.tensor(used, device="cuda", dtype=torch.int32)
    out = varlen(q, k, v, ends, rooms, (4, cells), None, window, count)
    for row, (mine, n) in enumerate(zip(queries, used, strict=True)):
        own = slice(int(ends[row]), int(ends[row + 1]))
        keys, values = (
            x[row * cells : row * cells + n].float().repeat_interleave(2, dim=1) for x in (k, v)
        )
        scores = torch.einsum("qhd,khd->hqk", q[own].float(), keys) / 8
        at = torch.arange(n - mine, n, device="cuda")[:, None]
        seen = torch.arange(n, device="cuda") <= at
        if window is not None:
            seen &= torch.arange(n, device="cuda") > at - window
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        expected = torch.einsum("hqk,khd->qhd", weights, values)
        torch.testing.assert_close(out[own].float(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("config", [Qwen3Config, Qwen2Config, LlamaConfig])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_kernels_give_the_same_numbers(config, dtype):
    pytest.importorskip("liger_kernel")
    torch.manual_seed(0)
    settings = {
        **{"vocab_size": 300, "hidden_size": 128, "num_hidden_layers": 2, "head_dim": 32},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 256},
    }
    plain = AutoModelForCausalLM.from_config(config(**settings), dtype=dtype).cuda()
    fused, on_cpu = copy.deepcopy(plain), copy.deepcopy(plain).cpu()
    assert apply_liger(fused)
    ids = torch.randint(300, (2, 50), device="cuda")
    for model in (plain, fused):
        model(ids).logits.float().square().sum().backward()
    gradients = [{n: p.grad.float() for n, p in m.named_parameters()} for m in (plain, fused)]
    for name, gradient in gradients[0].items():
        bound = (1e-3 if dtype == torch.float32 else 5e-2) * float(gradient.norm())
        assert float((gradients[1][name] - gradient).norm()) <= bound, name
    copied = copy.deepcopy(fused)
    assert copied.model.norm.forward.__self__ is copied.model.norm
    # What transformers makes of this family from now on, and models on a CPU, are as before.
    assert not hasattr(AutoModelForCausalLM.from_config(config(**settings)).model.norm, "in_place")
    torch.testing.assert_close(
        on_cpu(ids.cpu()).logits.float(), plain(ids).logits.float().cpu(), atol=2e-2, rtol=2e-2
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_update_learns_as_on_a_cpu(toy_policy, gpu_policy, dtype, samples):
    models = (toy_policy.model, gpu_policy.model)
    before = [p.detach().clone() for p in toy_policy.model.parameters()]
    for model in models:
        Updater(model, UpdateConfig(learning_rate=1e-3, warmup_steps=0), dtype=dtype).update(
            [samples]
        )
    moved = []
    for model in models:
        pairs = zip(model.parameters(), before, strict=True)
        moved.append(torch.cat([(p.detach().cpu() - b).flatten() for p, b in pairs]))
    likeness = torch.nn.functional.cosine_similarity(*moved, dim=0)
    assert float(likeness) > (0.98 if dtype == "float32" else 0.8)


@pytest.mark.parametrize("size", [64, 80, 128])
@pytest.mark.parametrize(("heads", "shared"), [(9, 3), (4, 4), (16, 2)])
@pytest.mark.parametrize("window", [None, 5, 600])
def test_decode_kernel_attends_as_the_formula(size, heads, shared, window):
    from cleaner_rl.inference.triton_attention import decode_attention

    torch.manual_seed(0)
    cells, used = 1280, [1, 513, 700, 1280]
    key, value = (
        torch.randn(5, cells, shared, size, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        for _ in range(2)
    )
    query = torch.randn(4, heads, size, device="cuda", dtype=torch.bfloat16)
    count = torch.tensor(used, dtype=torch.int32, device="cuda")
    out = decode_attention(query, key, value, count, cells, None, window)
    for row, n in enumerate(used):
        begin = 0 if window is None else max(0, n - window)
        k, v = (
            x[row, :, begin:n].float().repeat_interleave(heads // shared, dim=0)
            for x in (key, value)
        )
        weights = (torch.einsum("hd,hnd->hn", query[row].float(), k) / size**0.5).softmax(-1)
        expected = torch.einsum("hn,hnd->hd", weights, v)
        torch.testing.assert_close(out[row].float(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("vocabulary", [300, 10_000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprob_kernel_computes_the_formula(vocabulary, temperature, dtype):
    from cleaner_rl.learner.triton_logprobs import gradient_in_place, logprobs_of

    torch.manual_seed(0)
    logits = (4 * torch.randn(6, vocabulary, device="cuda")).to(dtype)
    ids = torch.randint(vocabulary, (6,), device="cuda")
    gradient = torch.randn(6, device="cuda")
    plain = logits.float().requires_grad_()
    everything = (plain / temperature).log_softmax(-1)
    expected = everything.gather(1, ids[:, None])[:, 0]
    expected.backward(gradient)
    logprobs, entropies, sums = logprobs_of(logits, ids, temperature)
    torch.testing.assert_close(logprobs, expected.detach(), atol=1e-4, rtol=1e-4)
    of_all = -(everything.exp() * everything).sum(-1).detach()
    torch.testing.assert_close(entropies, of_all, atol=1e-4, rtol=1e-4)
    got = gradient_in_place(logits, ids, sums, gradient, temperature).float()
    bound = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(got, plain.grad, atol=bound, rtol=bound)


def test_logits_that_are_not_finite_are_seen():
    from cleaner_rl.learner.triton_logprobs import logprobs_of

    logits = torch.zeros(2, 50, device="cuda")
    logits[1, 7] = torch.nan
    logprobs, entropies, _ = logprobs_of(logits, torch.zeros(2, dtype=torch.long).cuda(), 1.0)
    assert logprobs.isfinite().tolist() == entropies.isfinite().tolist() == [True, False]
