"""Attention over packed samples: the same numbers from every backend."""

import pytest
import torch

from cleaner_rl.learner.attention import _flash_version, backend, packed, packed_attention

LENGTHS = (3, 1, 9, 6)
CPU = torch.device("cpu")


def random_heads(device="cpu", dtype=torch.float32, head_dim=16):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, heads, sum(LENGTHS), head_dim, generator=generator).to(device, dtype)
        for heads in (4, 2, 2)
    ]


def boundaries(device="cpu"):
    return torch.tensor([0, *LENGTHS]).cumsum(0).to(device, torch.int32)


def by_formula(query, key, value, window=None):
    """softmax(q k / sqrt(d)) v over the tokens of the own sample that are not later."""
    key, value = (x.repeat_interleave(2, dim=1) for x in (key, value))
    sample = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    position = torch.arange(sum(LENGTHS))
    seen = (sample[:, None] == sample) & (position[:, None] >= position)
    if window is not None:
        seen &= position[:, None] - position < window
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    weights = scores.masked_fill(~seen.to(query.device), float("-inf")).softmax(-1)
    return (weights @ value).transpose(1, 2)


def attend(query, key, value, window=None):
    return packed_attention(
        torch.nn.Identity(),
        query,
        key,
        value,
        None,
        boundaries_S1=boundaries(query.device),
        lengths=LENGTHS,
        sliding_window=window,
    )[0]


@pytest.mark.parametrize("window", [None, 1, 4, 9, 100])
def test_samples_see_their_own_earlier_tokens_only(window):
    torch.testing.assert_close(
        attend(*random_heads(), window), by_formula(*random_heads(), window), atol=1e-5, rtol=1e-4
    )


def test_gradients_are_those_of_the_formula():
    gradients = []
    for function in (attend, by_formula):
        inputs = [x.requires_grad_() for x in random_heads()]
        function(*inputs).square().sum().backward()
        gradients.append([x.grad for x in inputs])
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("window", [None, 4])
def test_the_backend_of_this_gpu_gives_the_same_numbers(dtype, window):
    inputs = [x.requires_grad_() for x in random_heads("cuda", dtype, head_dim=64)]
    expected = [x.detach().float().requires_grad_() for x in inputs]
    got, wanted = attend(*inputs, window), by_formula(*expected, window)
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
        ({2, 3, 4}, 9, "flash_attn_3"),
        ({2, 4}, 9, "flash_attn_4"),
        ({2, 3, 4}, 10, "flash_attn_4"),
        ({2, 3, 4}, 8, "flash_attn_2"),
        ({3, 4}, 8, None),
        (set(), 9, None),
    ],
)
def test_the_flash_attn_that_fits_the_gpu_is_taken(monkeypatch, installed, generation, chosen):
    for version in (2, 3, 4):
        monkeypatch.setattr(
            f"cleaner_rl.learner.attention.is_flash_attn_{version}_available",
            lambda version=version: version in installed,
        )
    assert _flash_version(generation) == chosen


def test_the_models_own_attention_is_back_after_an_error(toy_policy):
    before = toy_policy.model.config._attn_implementation
    with pytest.raises(RuntimeError), packed(toy_policy.model):
        raise RuntimeError
    assert toy_policy.model.config._attn_implementation == before
