"""What only a GPU can show of attention, of an update's time, and of decoding uneven rows.

    python benchmarks/on_gpu.py attention      every installed backend beside SDPA by segment
    python benchmarks/on_gpu.py profile        kernels of an update by what they do
    python benchmarks/on_gpu.py uneven         requests of very different lengths

``--device cpu`` with small sizes runs the same code on a CPU. ``benchmarks/gpu.sh`` runs all of it.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

import torch
import tyro
from engine import synchronize
from torch.profiler import ProfilerActivity, profile
from transformers.utils import (
    is_flash_attn_2_available,
    is_flash_attn_3_available,
    is_flash_attn_4_available,
)
from update import Speed, model_of, random_samples

from cleaner_rl.distributed.fsdp import whole_copy
from cleaner_rl.grpo.samples import Sample
from cleaner_rl.inference.sampler import Sampler
from cleaner_rl.inference.sampling import Request
from cleaner_rl.learner.attention import packed_attention
from cleaner_rl.learner.packing import Pack
from cleaner_rl.learner.update import Updater
from cleaner_rl.models.backends import has_varlen
from cleaner_rl.models.policy import resolve_device
from cleaner_rl.settings import Precision, UpdateConfig

Shape = Literal["bundled", "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b"]


@dataclass(frozen=True)
class Attention:
    """Forward and backward passes of attention over a packed row, heads as in Qwen3 4B."""

    samples: int = 16
    """Samples of the row."""
    prompt: int = 2048
    """Tokens that they share."""
    response: int = 512
    """Tokens of each after the prompt."""
    window: int = 1024
    """Sliding window of the second half of the table."""
    heads: int = 32
    """Query heads; a quarter as many key heads."""
    head_dim: int = 128
    """Size of a head."""
    device: str = "auto"
    """Device, as for --device of the trainer."""
    repeats: int = 10
    """Passes that count, after two that do not."""


@dataclass(frozen=True)
class Profile:
    """One update, by kernel."""

    shape: Shape = "qwen3-0.6b"
    """The bundled policy, or random weights in the shape of a Qwen3 model."""
    samples: int = 64
    """Episodes in the update."""
    prompt: int = 150
    """Tokens of a prompt."""
    response: int = 400
    """Mean tokens of a response."""
    dtype: Precision = "bfloat16"
    """Precision, as for --dtype of the trainer."""
    device: str = "auto"
    """Device, as for --device of the trainer."""


@dataclass(frozen=True)
class Uneven:
    """Decoding of requests of very different lengths, as in nano-vllm's benchmark."""

    shape: Shape = "qwen3-0.6b"
    """The bundled policy, or random weights in the shape of a Qwen3 model."""
    requests: int = 256
    """Number of requests."""
    shortest: int = 100
    """Fewest tokens of a context, and of an answer."""
    longest: int = 1024
    """Most tokens of both."""
    dtype: Precision = "bfloat16"
    """Precision of weights and cache."""
    device: str = "auto"
    """Device, as for --device of the trainer."""


def attention(options: Attention) -> None:
    """Print milliseconds and tokens/s of each backend, and how far its output and its gradients are
    from those of SDPA in float32, relative to the largest of these."""
    device = resolve_device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    draw = random.Random(0)
    samples = []
    for _ in range(options.samples):
        length = options.response // 2 + draw.randrange(options.response)
        ids = (*range(options.prompt), *(draw.randrange(1000) for _ in range(length)))
        nothing, zeros = (False,) * len(ids), (0.0,) * len(ids)
        samples.append(Sample(ids, nothing, zeros, zeros, nothing))
    rows = {share: Pack.of(samples, device, share=share) for share in (False, True)}
    backends = ["sdpa"]
    if device.type == "cuda":
        backends += ["varlen_attn"] * has_varlen(device, dtype, options.head_dim)
        backends += ["flash_attention_2"] * is_flash_attn_2_available()
        backends += ["flash_attention_3"] * is_flash_attn_3_available()
        backends += ["flash_attention_4"] * is_flash_attn_4_available()
    columns = f"{'ms':>8} {'tokens/s':>10} {'output':>8} {'gradients':>9}"
    print(f"{'backend':18} {'shared':>6} {'window':>6} {columns}")
    for share, window, name in (
        (share, window, name)
        for share in (False, True)
        for window in (None, options.window)
        for name in backends
    ):
        row = rows[share]
        times = []
        for _ in range(options.repeats + 2):
            inputs = _heads(options, row, device, dtype)
            synchronize(device)
            began = time.perf_counter()
            passed = _passes(inputs, row, window, name)
            synchronize(device)
            times.append(time.perf_counter() - began)
        exact = _passes([x.detach().float().requires_grad_() for x in inputs], row, window, "sdpa")
        errors = [_error(*pair) for pair in zip(passed, exact, strict=True)]
        seconds = statistics.median(times[2:])
        rate = len(row.slots_T) / seconds
        figures = f"{seconds * 1e3:8.2f} {rate:10.0f} {errors[0]:8.1e} {max(errors[1:]):9.1e}"
        print(f"{name:18} {share!s:>6} {window or '-':>6} {figures}")


def _heads(
    options: Attention, row: Pack, device: torch.device, dtype: torch.dtype
) -> list[torch.Tensor]:
    torch.manual_seed(0)
    counts = (options.heads, options.heads // 4, options.heads // 4)
    size = (len(row.ids_U), options.head_dim)
    return [
        torch.randn(1, heads, *size, device=device, dtype=dtype).requires_grad_()
        for heads in counts
    ]


def _passes(inputs: list[Any], row: Pack, window: int | None, name: str) -> list[torch.Tensor]:
    """The output of attention and the gradients of its inputs."""
    # The backward pass may compute attention again, and must do so with the same backend.
    with patch("cleaner_rl.learner.attention.backend", lambda *_: name):
        out = packed_attention(
            torch.nn.Identity(), *inputs, None, segments=row.segments, sliding_window=window
        )[0]
        out.float().square().sum().backward()
    return [out.detach(), *(x.grad for x in inputs)]


def _error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.float() - exact).abs().max() / exact.abs().max())


def profile_update(options: Profile) -> None:
    """Print where the time of an update goes: kernels by kind, and what the device waits."""
    device = resolve_device(options.device)
    model = model_of(options.shape, device)
    speed = Speed(samples=options.samples, prompt=options.prompt, response=options.response)
    samples = random_samples(speed, model.config.vocab_size)
    updater = Updater(
        model, UpdateConfig(learning_rate=1e-6, pack_tokens=16_384), dtype=options.dtype
    )
    for _ in range(2):
        updater.update([samples])
    synchronize(device)
    kinds = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (device.type == "cuda")]
    began = time.perf_counter()
    with profile(activities=kinds) as recorded:
        updater.update([samples])
        synchronize(device)
    seconds = time.perf_counter() - began
    spent = Counter[str]()
    for event in recorded.key_averages():
        on_device = getattr(event, "self_device_time_total", 0.0)
        spent[_kind(event.key)] += on_device if device.type == "cuda" else event.self_cpu_time_total
    print(f"{options.shape}, {options.dtype}, {device}: {seconds:.2f} s under the profiler")
    for kind, microseconds in spent.most_common():
        print(f"{kind:34} {microseconds / 1e6:8.3f} s {microseconds / 1e6 / seconds:6.1%}")
    if device.type == "cuda":
        idle = seconds - spent.total() / 1e6
        print(f"{'the device waits':34} {idle:8.3f} s {idle / seconds:6.1%}")


def _kind(kernel: str) -> str:
    name = kernel.lower()
    words = {
        "attention": ("flash", "attention", "attn", "fmha"),
        "matrix products": ("gemm", "::mm", "addmm", "bmm", "linear", "cutlass", "nvjet"),
        "log-probabilities": ("softmax", "logprob", "triton"),
        "optimiser": ("adam", "foreach", "multi_tensor"),
        "copies and conversions": ("copy", "memcpy", "memset", "_to_"),
    }
    return next((k for k, part in words.items() if any(w in name for w in part)), "small kernels")


def uneven(options: Uneven) -> None:
    """Print tokens/s of a batch of requests, prefill included, from submission to the last end."""
    device = resolve_device(options.device)
    model = whole_copy(model_of(options.shape, device), options.dtype)
    draw = random.Random(0)
    codec = SimpleNamespace(stop_ids=frozenset({-1}))
    policy: Any = SimpleNamespace(
        model=model,
        codec=codec,
        device=device,
        context_length=2 * options.longest + 1,
        decode=lambda ids: "",
        name=options.shape,
    )
    for counts in (False, True):  # kernels are compiled and graphs captured in the first round
        sampler = Sampler(policy, max_batch=options.requests, dtype=options.dtype)
        answers = 0
        for number in range(options.requests):
            context = draw.randint(options.shortest, options.longest)
            answer = draw.randint(options.shortest, options.longest)
            ids = [draw.randrange(1000) for _ in range(context)]
            sampler.submit(Request(number, ids, answer, (number,)))
            answers += answer
        synchronize(device)
        began = time.perf_counter()
        while sampler.busy:
            sampler.advance()
        synchronize(device)
        seconds = time.perf_counter() - began
        if counts:
            print(
                f"{options.shape}, {options.dtype}, {device}: {options.requests} requests, "
                f"{answers} tokens in {seconds:.1f} s, {answers / seconds:.0f} tokens/s"
            )


def main(arguments: list[str]) -> None:
    """Run one benchmark and print its table."""
    commands: dict[str, tuple[Any, Any]] = {
        "attention": (Attention, attention),
        "profile": (Profile, profile_update),
        "uneven": (Uneven, uneven),
    }
    if arguments[:1] == [] or arguments[0] not in commands:
        raise SystemExit(__doc__)
    options, run = commands[arguments[0]]
    run(tyro.cli(options, args=arguments[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
