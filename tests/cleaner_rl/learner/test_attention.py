"""Attention over packed samples: the same numbers from every backend."""

import sys
from functools import wraps
from itertools import pairwise
from types import ModuleType

import pytest
import torch

from cleaner_rl.learner.attention import backend, packed, packed_attention
from cleaner_rl.learner.logprobs import token_logprobs
from cleaner_rl.learner.packing import Pack, Segments

LENGTHS = (3, 1, 9, 6)
PATHS = ((0, 1, 2), (0, 1, 3), (0, 1, 3, *range(4, 13)), (0, 1, 3, 4, 5, *range(13, 19)))
"""Of a tree of as many tokens in segments of these lengths."""
CPU = torch.device("cpu")


def random_heads(device="cpu", dtype=torch.float32, head_dim=16):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, heads, sum(LENGTHS), head_dim, generator=generator).to(device, dtype)
        for heads in (4, 2, 2)
    ]


def ends_of(lengths, device):
    return torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)


def by_formula(query, key, value, window=None, paths=None):
    """softmax(q k / sqrt(d)) v over the tokens of the own path that are not later."""
    key, value = (x.repeat_interleave(2, dim=1) for x in (key, value))
    ends = [sum(LENGTHS[: i + 1]) for i in range(len(LENGTHS))]
    own = [range(end - length, end) for end, length in zip(ends, LENGTHS, strict=True)]
    seen = torch.zeros(sum(LENGTHS), sum(LENGTHS), dtype=torch.bool)
    for path in paths or own:
        for place, token in enumerate(path):
            begin = 0 if window is None else max(0, place + 1 - window)
            seen[token, list(path[begin : place + 1])] = True
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    weights = scores.masked_fill(~seen.to(query.device), float("-inf")).softmax(-1)
    return (weights @ value).transpose(1, 2)


def attend(query, key, value, window=None, paths=None):
    keys, path_P = LENGTHS, None
    if paths:
        keys = tuple(map(len, paths))
        path_P = torch.tensor([token for path in paths for token in path], device=query.device)
    ends = (ends_of(lengths, query.device) for lengths in (LENGTHS, keys))
    segments = Segments(LENGTHS, keys, *ends, path_P)
    return packed_attention(
        torch.nn.Identity(),
        *(query, key, value, None),
        segments=segments,
        sliding_window=window,
    )[0]


@pytest.mark.parametrize("paths", [None, PATHS])
@pytest.mark.parametrize("window", [None, 1, 4, 9, 100])
def test_samples_see_their_own_earlier_tokens_only(window, paths):
    torch.testing.assert_close(
        attend(*random_heads(), window, paths),
        by_formula(*random_heads(), window, paths),
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize("paths", [None, PATHS])
@pytest.mark.parametrize("kept", [0, 4])
def test_gradients_are_those_of_the_formula(paths, kept, monkeypatch):
    monkeypatch.setattr("cleaner_rl.learner.attention._KEPT_KEYS", kept)  # or computed again
    gradients = []
    for function in (attend, by_formula):
        inputs = [x.requires_grad_() for x in random_heads()]
        function(*inputs, None, paths).square().sum().backward()
        gradients.append([x.grad for x in inputs])
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("paths", [None, PATHS])
def test_the_backend_of_this_gpu_gives_the_same_numbers(dtype, window, paths):
    inputs = [x.requires_grad_() for x in random_heads("cuda", dtype, head_dim=64)]
    expected = [x.detach().float().requires_grad_() for x in inputs]
    got, wanted = attend(*inputs, window, paths), by_formula(*expected, window, paths)
    torch.testing.assert_close(got.float(), wanted, atol=2e-2, rtol=2e-2)
    got.float().square().sum().backward()
    wanted.square().sum().backward()
    for mine, theirs in zip(inputs, expected, strict=True):
        torch.testing.assert_close(mine.grad.float(), theirs.grad, atol=5e-2, rtol=5e-2)


def test_a_cpu_and_float32_take_sdpa():
    assert backend(CPU, torch.bfloat16, 64) == "sdpa"
    assert backend(torch.device("cuda"), torch.float32, 64) == "sdpa"


@pytest.mark.parametrize(
    ("installed", "generation", "chosen"),
    [
        ({2, 3, 4}, 9, "flash_attention_3"),
        ({2, 4}, 9, "flash_attention_4"),
        ({2, 3, 4}, 10, "flash_attention_4"),
        ({2, 3, 4}, 8, "flash_attention_2"),
        ({3, 4}, 8, "varlen_attn"),
        (set(), 9, "varlen_attn"),
    ],
)
def test_the_flash_attn_that_fits_the_gpu_is_taken(monkeypatch, installed, generation, chosen):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (generation, 0))
    for version in (2, 3, 4):
        monkeypatch.setattr(
            f"cleaner_rl.learner.attention.is_flash_attn_{version}_available",
            lambda version=version: version in installed,
        )
    assert backend(torch.device("cuda"), torch.bfloat16, 64) == chosen


def test_heads_that_varlen_attn_cannot_take_go_to_sdpa(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert backend(torch.device("cuda"), torch.bfloat16, 20) == "sdpa"
    assert backend(torch.device("cuda"), torch.bfloat16, 512) == "sdpa"


def flash_by_formula(q, k, v, ends, longest, scale, window):
    """What every version's kernel computes when ``causal`` is set, a sequence at a time: the last
    query sees the last key."""
    assert ends[0].dtype == ends[1].dtype == torch.int32
    assert longest == tuple(int(of_all.diff().max()) for of_all in ends)
    left = len(k) if window[0] in (-1, None) else window[0]
    pieces = []
    for (begin, end), (first, last) in zip(*(pairwise(e.tolist()) for e in ends), strict=True):
        keys, values = (
            x[first:last].repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v)
        )
        at = torch.arange(last - first)
        own = at[-(end - begin) :, None]
        seen = (own >= at) & (own - at <= left)
        scores = torch.einsum("qhd,khd->hqk", q[begin:end], keys) * (scale or q.shape[-1] ** -0.5)
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        pieces.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(pieces)


# Parameters, defaults and results of each package's function: transformers passes what it finds.


def flash_2(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
    block_table=None,
):
    assert causal and dropout_p == softcap == 0.0
    ends, longest = (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k)
    return flash_by_formula(q, k, v, ends, longest, softmax_scale, window_size)


def flash_3(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    seqused_q=None,
    seqused_k=None,
    softmax_scale=None,
    causal=False,
    qv=None,
    q_descale=None,
    k_descale=None,
    v_descale=None,
    window_size=(-1, -1),
    attention_chunk=0,
    softcap=0.0,
    num_splits=1,
    pack_gqa=None,
    deterministic=False,
    sm_margin=0,
):
    assert causal and seqused_q is seqused_k is qv is None and softcap == 0.0
    ends, longest = (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k)
    out = flash_by_formula(q, k, v, ends, longest, softmax_scale, window_size)
    return out, torch.zeros(q.shape[1], q.shape[0])


def flash_4(
    q,
    k,
    v,
    cu_seqlens_q=None,
    cu_seqlens_k=None,
    max_seqlen_q=None,
    max_seqlen_k=None,
    seqused_q=None,
    seqused_k=None,
    page_table=None,
    softmax_scale=None,
    causal=False,
    window_size=(None, None),
    learnable_sink=None,
    softcap=0.0,
    num_splits=1,
    pack_gqa=None,
    deterministic=False,
    return_lse=False,
):
    assert causal and page_table is learnable_sink is None and softcap == 0.0
    ends, longest = (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k)
    out = flash_by_formula(q, k, v, ends, longest, softmax_scale, window_size)
    return out, torch.zeros(q.shape[1], q.shape[0])


@pytest.fixture(params=[2, 3, 4])
def flash(request, monkeypatch):
    """One version of flash-attn is installed, with the formula in the place of its kernel, and is
    what is chosen; gives the calls of it."""
    version, calls = request.param, []
    function = {2: flash_2, 3: flash_3, 4: flash_4}[version]

    @wraps(function)
    def attend(*arguments, **named):
        calls.append(named)
        return function(*arguments, **named)

    names = {2: ["flash_attn"], 3: ["flash_attn_interface"], 4: ["flash_attn", "flash_attn.cute"]}
    for name in [*names[version], "flash_attn.bert_padding"]:
        module = ModuleType(name)
        module.pad_input = module.unpad_input = None
        module.flash_attn_func = module.flash_attn_with_kvcache = flash_2
        module.flash_attn_varlen_func = attend
        monkeypatch.setitem(sys.modules, name, module)
    dispatch = "transformers.modeling_flash_attention_utils"
    monkeypatch.setattr(f"{dispatch}._loaded_implementation", None)
    monkeypatch.setattr(f"{dispatch}.is_flash_attn_2_available", lambda: version == 2)
    monkeypatch.setattr(
        "cleaner_rl.learner.attention.backend", lambda *_: f"flash_attention_{version}"
    )
    return calls


@pytest.mark.parametrize("paths", [None, PATHS])
@pytest.mark.parametrize("window", [None, 1, 4, 9, 100])
def test_every_flash_attn_is_told_the_samples(flash, window, paths):
    torch.testing.assert_close(
        attend(*random_heads(), window, paths),
        by_formula(*random_heads(), window, paths),
        atol=1e-5,
        rtol=1e-4,
    )
    assert len(flash) == 1


@pytest.mark.parametrize("paths", [None, PATHS])
def test_gradients_through_the_dispatch_are_those_of_the_formula(flash, paths):
    gradients = []
    for function in (attend, by_formula):
        inputs = [x.requires_grad_() for x in random_heads()]
        function(*inputs, None, paths).square().sum().backward()
        gradients.append([x.grad for x in inputs])
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_a_models_logprobs_by_flash_attn_are_those_by_sdpa(flash, toy_policy, samples, monkeypatch):
    row = Pack.of(samples)
    got = token_logprobs(toy_policy.model, row)
    assert len(flash) == toy_policy.model.config.num_hidden_layers
    monkeypatch.setattr("cleaner_rl.learner.attention.backend", lambda *_: "sdpa")
    torch.testing.assert_close(got, token_logprobs(toy_policy.model, row))
    assert len(flash) == toy_policy.model.config.num_hidden_layers


def test_autocast_gives_the_kernel_one_precision(flash, toy_policy, samples):
    row = Pack.of(samples)
    with torch.autocast("cpu", torch.bfloat16):
        logprobs_T, _ = token_logprobs(toy_policy.model, row)
    assert logprobs_T.isfinite().all()


def test_the_models_own_attention_is_restored_after_an_error(toy_policy):
    before = toy_policy.model.config._attn_implementation
    with pytest.raises(RuntimeError), packed(toy_policy.model):
        raise RuntimeError
    assert toy_policy.model.config._attn_implementation == before
