"""Compare the update with a bare forward and backward pass of the same tokens, in one run.

    python benchmarks/update.py              the bundled policy on this machine
    python benchmarks/update.py --shape qwen3-0.6b --dtype bfloat16 --peak-tflops 989
    python benchmarks/update.py memory       log-probabilities with a large vocabulary
    python benchmarks/update.py tree         prefixes shared or not, on the samples of real steps
    python benchmarks/update.py shapes       the same by length of prompt, episodes and branches

The bare pass shows what the hardware allows: the same packed rows and attention, all logits at
once, their mean log-probability and its gradient; no loss, no optimiser, no metrics. Runs
alternate, and medians are reported.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from transformers import AutoModelForCausalLM, Qwen3Config

from cleaner_rl.grpo.samples import Sample
from cleaner_rl.learner.attention import backend, packed
from cleaner_rl.learner.logprobs import token_logprobs
from cleaner_rl.learner.packing import Pack, pack
from cleaner_rl.learner.update import Updater
from cleaner_rl.models.backends import apply_liger, autocast
from cleaner_rl.models.lora import add_lora
from cleaner_rl.models.memory import head_size
from cleaner_rl.models.policy import load_policy, resolve_device
from cleaner_rl.settings import LossName, Precision, UpdateConfig

Kind = Literal["update", "two", "checkpointed"]

SHAPES = {
    "qwen3-0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28},
    "qwen3-1.7b": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28},
    "qwen3-4b": {
        **{"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36},
        **{"num_attention_heads": 32},
    },
}
"""Architectures of Qwen3 models. Weights are random; nothing is downloaded."""


@dataclass(frozen=True)
class Speed:
    """Tokens/s and peak memory of updates, compared with a bare pass."""

    shape: Literal["bundled", "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b"] = "bundled"
    """The bundled policy, or random weights in the shape of a Qwen3 model."""
    samples: int = 64
    """Episodes in the update."""
    prompt: int = 40
    """Tokens of a prompt, which are not trained."""
    response: int = 80
    """Mean tokens of a response; lengths vary from half to one and a half times that."""
    pack_tokens: int = 8192
    """Most tokens of a row."""
    loss: LossName = "dapo"
    """Loss, as for --loss of the trainer."""
    lora_rank: int = 0
    """Rank of LoRA adapters, as for --lora-rank of the trainer."""
    dtype: Precision = "float32"
    """Precision, as for --dtype of the trainer."""
    device: str = "auto"
    """Device, as for --device of the trainer."""
    kinds: tuple[Kind, ...] = ("update", "two", "checkpointed")
    """What to run besides the bare pass: one update, two updates on half of the samples each, and
    one that recomputes activations (which has its own optimiser, and so its own memory)."""
    repeats: int = 5
    """Runs of each kind, after warm-up."""
    peak_tflops: float = 0.0
    """Peak TFLOP/s of the device in that precision, to compute the share in use (MFU)."""
    fused: bool = True
    """Compute with liger-kernel on a GPU, where it is installed."""


@dataclass(frozen=True)
class Memory:
    """Peak memory of log-probabilities and their gradient, chunked and by the plain formula."""

    vocabulary: int = 151_936
    """Vocabulary of the model, whose body is small so that the logits dominate."""
    tokens: tuple[int, ...] = (256, 512, 1024, 2048)
    """Lengths of rows to measure."""
    chunk: int = 256
    """Tokens whose logits are held at a time."""
    plain_up_to: int = 1024
    """Longest row to try with the plain formula."""


def main(arguments: list[str]) -> None:
    """Run the benchmark and print its table."""
    if arguments[:1] == ["memory"]:
        memory(tyro.cli(Memory, args=arguments[1:]))
    elif arguments[:1] in (["tree"], ["shapes"]):
        from shared_prefixes import run

        run(arguments)
    else:
        speed(tyro.cli(Speed, args=arguments))


def speed(options: Speed) -> None:
    """Print tokens/s and memory of the bare pass and of updates."""
    device = resolve_device(options.device)
    model = model_of(options.shape, device, options.fused)
    samples = random_samples(options, model.config.vocab_size)
    rows = pack(samples, options.pack_tokens, device)
    tokens = sum(len(row.ids_U) for row in rows)
    if options.lora_rank:
        add_lora(model, options.lora_rank, 2.0 * options.lora_rank)

    def updater(**settings: Any) -> Updater:
        return Updater(
            model,
            UpdateConfig(
                learning_rate=1e-6,
                loss=options.loss,
                pack_tokens=options.pack_tokens,
                **settings,
            ),
            dtype=options.dtype,
        )

    one = updater()
    half = len(samples) // 2
    runs: dict[str, Callable[[], object]] = {
        "bare forward and backward": lambda: bare(model, rows, device, options.dtype)
    }
    if "update" in options.kinds:
        runs["update"] = lambda: one.update([samples])
    if "two" in options.kinds:
        runs["two updates (old log-probs first)"] = lambda: one.update(
            [samples[:half], samples[half:]]
        )
    if "checkpointed" in options.kinds:
        recomputed = updater(gradient_checkpointing=True)
        runs["update, gradient checkpointing"] = lambda: recomputed.update([samples])
    seconds, peaks = measure(runs, device, options.repeats)
    parameters = sum(p.numel() for p in model.parameters())
    attention = (
        "sdpa"
        if options.dtype == "float32"
        else backend(device, _torch(options.dtype), head_size(model.config))
    )
    print(
        f"{options.shape}, {parameters / 1e6:.1f}M parameters, {options.dtype}, {device}, "
        f"{attention}, {torch.get_num_threads()} threads, torch {torch.__version__}; {tokens} "
        f"tokens of {len(samples)} samples in {len(rows)} rows, "
        f"{sum(s.counted for s in samples)} of them trained"
    )
    bare_seconds = statistics.median(seconds["bare forward and backward"])
    print(f"{'':34} {'tokens/s':>10} {'of bare':>8} {'peak MiB':>9}  MFU")
    for name, times in seconds.items():
        middle = statistics.median(times)
        used = 6 * parameters * tokens / middle / 1e12
        mfu = f"{used / options.peak_tflops:.0%}" if options.peak_tflops else "-"
        print(
            f"{name:34} {tokens / middle:10.0f} {bare_seconds / middle:8.0%} "
            f"{peaks[name] / 2**20:9.0f}  {mfu}"
        )


def memory(options: Memory) -> None:
    """Print the peak memory of log-probabilities and their gradient, above what was in use."""
    config = Qwen3Config(
        vocab_size=options.vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # so that gradients take no new memory
        parameter.grad = torch.zeros_like(parameter)
    cpu = torch.device("cpu")
    print(f"vocabulary {options.vocabulary}, float32, chunks of {options.chunk} tokens; peak MiB")
    print(f"{'tokens':>8} {'chunked':>10} {'plain':>10} {'all logits once':>16}")
    for length in options.tokens:
        ids = tuple(range(1, length + 1))
        mask = (False, *[True] * (length - 1))
        zeros = (0.0,) * length
        rows = [Pack.of([Sample(ids, mask, zeros, zeros, (False,) * length)])]

        def chunked(rows: list[Pack] = rows) -> None:
            token_logprobs(model, rows[0], chunk=options.chunk)[0].sum().backward()

        def plain(rows: list[Pack] = rows) -> None:
            bare(model, rows, cpu, "float32", entropy=True)

        runs: dict[str, Callable[[], object]] = {"chunked": chunked}
        if length <= options.plain_up_to:
            runs["plain"] = plain
        _, peaks = measure(runs, cpu, 1)
        shown = f"{peaks['plain'] / 2**20:10.0f}" if "plain" in peaks else f"{'-':>10}"
        once = 4 * length * options.vocabulary / 2**20
        print(f"{length:8} {peaks['chunked'] / 2**20:10.0f} {shown} {once:16.0f}")


def bare(
    model: Any,
    rows: list[Pack],
    device: torch.device,
    dtype: Precision,
    entropy: bool = False,
) -> None:
    """Run only the forward and backward pass of rows. Gradients accumulate."""
    for row in rows:
        with packed(model), autocast(device, dtype):
            logits_TV = model(
                input_ids=row.ids_U[None],
                position_ids=row.positions_U[None],
                use_cache=False,
                segments=row.segments,
            ).logits[0, :-1]
            all_TV = logits_TV.float().log_softmax(-1)
            if entropy:
                (all_TV.detach().exp() * all_TV.detach()).sum(-1)
            all_TV.gather(1, row.ids_U[1:, None]).mean().backward()


def random_samples(options: Speed, vocabulary: int) -> list[Sample]:
    """Make episodes of different lengths, with random ids and advantages."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(options.samples):
        share = 0.5 + float(torch.rand(1, generator=generator))
        length = options.prompt + max(1, round(options.response * share))
        ids = torch.randint(vocabulary, (length,), generator=generator).tolist()
        mask = tuple(i >= options.prompt for i in range(length))
        advantage = float(torch.randn(1, generator=generator))
        samples.append(
            Sample(
                tuple(ids),
                mask,
                tuple(advantage * m for m in mask),
                tuple(-1.0 * m for m in mask),
                (False,) * length,
            )
        )
    return samples


def measure(
    runs: dict[str, Callable[[], object]], device: torch.device, repeats: int
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of each run, taken in turn, and its peak bytes above those in use before it."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    peaks = dict.fromkeys(runs, 0)
    for name, run in runs.items():
        for _ in range(2):  # creates gradients and the optimiser's state
            run()
        _finish(device)
        before = _reset_peak(device)
        run()
        _finish(device)
        peaks[name] = _peak(device) - before
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            _finish(device)
            seconds[name].append(time.perf_counter() - began)
    return seconds, peaks


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> int:
    """Reset the recorded peak and return the bytes in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    gc.collect()
    # Memory that the C library keeps in reserve would hide what the next run needs.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(field: str) -> int:
    """Bytes of this process, as Linux reports them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}; this benchmark needs Linux or CUDA")


def _torch(dtype: Precision) -> torch.dtype:
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(dtype, torch.float32)


def model_of(shape: str, device: torch.device, fused: bool = True) -> Any:
    """Load the bundled policy's model, or make random weights in that shape."""
    if shape == "bundled":
        return load_policy("bundled", str(device)).model
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        **{"vocab_size": 151_936, "num_attention_heads": 16, "num_key_value_heads": 8},
        **{"head_dim": 128, "tie_word_embeddings": True},
        **SHAPES[shape],
    }
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(Qwen3Config(**settings)).eval()
    print(f"fused kernels: {fused and apply_liger(model)}")
    return model


if __name__ == "__main__":
    main(sys.argv[1:])
