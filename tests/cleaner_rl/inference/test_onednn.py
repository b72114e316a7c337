"""Linear layers by oneDNN give what torch's give."""

import copy

import pytest
import torch
from torch import nn

from cleaner_rl.inference import onednn, sampler
from cleaner_rl.inference.onednn import OneDNNLinear, onednn_is_faster, use_onednn

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


@needs_onednn
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 65, 128), (2, 40, 128), (257, 128)])
def test_large_products_equal_those_of_torch(shape, bias, monkeypatch):
    plain = nn.Linear(128, 192, bias=bias)
    fast = copy.deepcopy(plain)
    use_onednn(fast)
    input = torch.randn(shape)
    with torch.inference_mode():
        expected = plain(input)
        monkeypatch.setattr(nn.Linear, "forward", None)  # it must not come to torch's
        torch.testing.assert_close(fast(input), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows, size", [(40, 16), (2, 2048)])
def test_small_products_and_few_rows_are_left_to_torch(rows, size, monkeypatch):
    plain = nn.Linear(size, size)
    fast = copy.deepcopy(plain)
    use_onednn(fast)
    monkeypatch.setattr(onednn.F, "pad", None)  # it must not come to oneDNN
    with torch.inference_mode():
        input = torch.randn(rows, size)
        assert torch.equal(fast(input), plain(input))


def test_gradients_are_those_of_torch():
    plain = nn.Linear(128, 192)
    fast = copy.deepcopy(plain)
    use_onednn(fast)
    input = torch.randn(64, 128)
    for layer in (plain, fast):
        layer(input).square().sum().backward()
    assert torch.equal(fast.weight.grad, plain.weight.grad)


def test_layers_that_do_more_than_a_linear_layer_stay_as_they_are():
    class Scaled(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(2, 2), Scaled(2, 2))
    use_onednn(model)
    assert [type(module) for module in model] == [OneDNNLinear, Scaled]


@pytest.mark.parametrize(
    "vendor, capability, expected",
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
    ],
)
def test_only_amd_processors_with_avx512_use_it(
    vendor, capability, expected, tmp_path, monkeypatch
):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr(onednn, "_PROCESSORS", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for library in (torch.backends.mkl, torch.backends.mkldnn):
        monkeypatch.setattr(library, "is_available", lambda: True)
    onednn_is_faster.cache_clear()
    try:
        assert onednn_is_faster() is expected
    finally:
        onednn_is_faster.cache_clear()


@pytest.mark.parametrize("precision, used", [("float32", True), ("bfloat16", False)])
def test_the_policy_itself_keeps_its_layers(toy_policy, precision, used, monkeypatch):
    monkeypatch.setattr(sampler, "onednn_is_faster", lambda: True)
    decoder = sampler.DecodingModel(toy_policy.model, precision)
    assert any(isinstance(m, OneDNNLinear) for m in decoder.model.modules()) is used
    assert not any(isinstance(m, OneDNNLinear) for m in toy_policy.model.modules())
