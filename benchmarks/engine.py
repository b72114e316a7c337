"""Compare the sampler with a plain decode loop, and measure what tools and SAAR cost, in one run.

    python benchmarks/engine.py                    the bundled policy on this machine
    python benchmarks/engine.py decode --shape qwen3-0.6b --dtype bfloat16 --batch 64 \\
        --context 1024 --tokens 512 --bandwidth 3350          decoding alone, random weights

The plain loop is a few lines of transformers: a forward pass of one token per row with a
``DynamicCache``, a softmax, a draw. All its rows have the same length and none ever ends, so its
batch is always full and nothing is prefilled. The sampler plays whole episodes with the sandbox,
more of them than its batch has rows. Rounds alternate, and medians are reported. The update has its
own benchmark, ``benchmarks/update.py``.
"""

from __future__ import annotations

import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal

import torch
import tyro
from transformers import DynamicCache
from update import model_of

from cleaner_env.env import CodeToolEnv
from cleaner_env.saar import SAARWrapper
from cleaner_rl.config import PRESETS
from cleaner_rl.distributed.fsdp import whole_copy
from cleaner_rl.inference.sampler import Sampler
from cleaner_rl.inference.sampling import Request
from cleaner_rl.models.policy import load_policy, resolve_device
from cleaner_rl.rollout.rollout import Rollout
from cleaner_rl.runs.markdown import table
from cleaner_rl.settings import Precision
from cleaner_rl.trainer import load_source


@dataclass(frozen=True)
class Episodes:
    """Whole episodes with tools, compared with the plain loop at the same batch size."""

    batch: int = 32
    """Turns that are decoded together."""
    episodes: int = 256
    """Episodes per round, 8 for each problem."""
    rounds: int = 5
    """Rounds that count, after one that does not."""
    workers: int = 2
    """Programs that run at the same time."""
    threads: int = 0
    """Number of torch threads; 0 keeps torch's own choice."""
    saar: Literal["on", "off"] = "on"
    """Whether failed calls are rolled back."""


@dataclass(frozen=True)
class Decode:
    """Decoding alone: the sampler and the plain loop, starting from the same contexts."""

    shape: Literal["bundled", "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b"] = "bundled"
    """The bundled policy, or random weights in the shape of a Qwen3 model."""
    batch: int = 32
    """Rows that are decoded together."""
    context: int = 128
    """Tokens before the first decoded one."""
    tokens: int = 128
    """Tokens that each row decodes; must exceed the number of prefill passes (8192 tokens each)."""
    dtype: Precision = "float32"
    """Precision of weights and cache."""
    device: str = "auto"
    """Device, as for --device of the trainer."""
    rounds: int = 5
    """Rounds that count, after one that does not."""
    fused: bool = True
    """Compute with liger-kernel on a GPU, where it is installed."""
    bandwidth: float = 0.0
    """Memory bandwidth in GB/s, to compare with the time that reading weights and cache takes. 0
    measures it on a GPU, by copying, and omits the comparison on a CPU."""


def main(arguments: list[str]) -> None:
    """Run the benchmark and print its table."""
    if arguments[:1] == ["decode"]:
        decode(tyro.cli(Decode, args=arguments[1:]))
    else:
        episodes(tyro.cli(Episodes, args=arguments))


def episodes(options: Episodes) -> None:
    """Print the sampler's speed over whole episodes, and where the time went."""
    if options.threads:
        torch.set_num_threads(options.threads)
    config = PRESETS["tiny"]
    policy = load_policy("bundled")
    source = load_source(config.tasks, "train", config.seed)
    tasks = [source[i // 8] for i in range(options.episodes)]
    sampler = Sampler(policy, max_batch=options.batch)
    clocks = {"wrapper": Clock(SAARWrapper), "env": Clock(CodeToolEnv)}
    rows: list[dict[str, float]] = []
    settings = replace(config.episode, workers=options.workers, saar=options.saar)
    with Rollout(policy, sampler, settings) as rollout:
        for number in range(options.rounds + 1):
            waited, before = rollout.tool_wait_seconds, replace(sampler.stats)
            for clock in clocks.values():
                clock.seconds = 0.0
            began = time.perf_counter()
            played = rollout.play(tasks, seed=number * len(tasks))
            seconds = time.perf_counter() - began
            tokens = sum(e.stats.tokens_sampled for e in played)
            turns = sum(len(e.raw_turns) for e in played)
            lengths = [rollout.response_length(e) + len(rollout.prompt_ids(e)) for e in played]
            context = int(statistics.mean(lengths)) - tokens // turns
            plain = plain_loop(policy.model, options.batch, max(context, 1), tokens // turns)
            rows.append(
                {
                    "tokens/s, sampler": tokens / seconds,
                    "tokens/s, plain loop": plain,
                    "sampler over plain loop": tokens / seconds / plain,
                    "tokens computed/s, prefill included, over plain loop": (
                        (tokens + sampler.stats.prefilled - before.prefilled) / seconds / plain
                    ),
                    "share of time waiting for tools": (rollout.tool_wait_seconds - waited)
                    / seconds,
                    "share of SAAR, without its tools": (
                        clocks["wrapper"].seconds - clocks["env"].seconds
                    )
                    / seconds,
                    "tokens that rollback discards": sum(e.stats.tokens_discarded for e in played)
                    / tokens,
                    "share of rows in use": (sampler.stats.decoded - before.decoded)
                    / (sampler.stats.passes - before.passes)
                    / options.batch,
                    "prefilled tokens for each sampled one": (
                        sampler.stats.prefilled - before.prefilled
                    )
                    / tokens,
                    "context tokens taken from the cache": (
                        1
                        - (sampler.stats.prefilled - before.prefilled)
                        / (
                            sampler.stats.prefilled
                            - before.prefilled
                            + sampler.stats.reused
                            - before.reused
                        )
                    ),
                    "trajectories/s": len(played) / seconds,
                    "episodes with a call": sum(e.stats.calls > 0 for e in played) / len(played),
                }
            )
    print(f"{options.episodes} episodes, batch {options.batch}, {torch.get_num_threads()} threads")
    print_figures(rows[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB")


class Clock:
    """Processor seconds that the ``step`` method of a class takes, in all threads."""

    def __init__(self, owner: type[Any]) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()
        step: Callable[..., Any] = owner.step

        def timed(env: Any, action: Any) -> Any:
            began = time.thread_time()
            try:
                return step(env, action)
            finally:
                with self._lock:
                    self.seconds += time.thread_time() - began

        owner.step = timed  # type: ignore[attr-defined]


def decode(options: Decode) -> None:
    """Print tokens/s of the sampler and of the plain loop."""
    device = resolve_device(options.device)
    model = whole_copy(model_of(options.shape, device, options.fused), options.dtype)
    bandwidth = options.bandwidth
    if not bandwidth and device.type == "cuda":
        bandwidth = measured_bandwidth(device)
    rows = []
    for _ in range(options.rounds + 1):
        tokens = min(options.tokens, 64)  # around the middle, because the plain loop is slow
        context = options.context + (options.tokens - tokens) // 2
        plain = plain_loop(model, options.batch, context, tokens)
        ours = sampler_alone(model, options)
        row = {"tokens/s, sampler": ours, "tokens/s, plain loop": plain, "ratio": ours / plain}
        if bandwidth:
            row["share of the memory's bandwidth"] = ours / tokens_at(bandwidth, model, options)
        rows.append(row)
    print(f"{options.shape}, {options.dtype}, {device}, batch {options.batch}")
    print_figures(rows[1:])
    if device.type == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")


def sampler_alone(model: Any, options: Decode) -> float:
    """Tokens/s of the sampler while all rows are decoded, prefill left out."""
    codec = SimpleNamespace(stop_ids=frozenset({-1}))
    policy: Any = SimpleNamespace(
        model=model,
        codec=codec,
        device=model.device,
        context_length=options.context + options.tokens + 1,
        decode=lambda ids: "",
        name=options.shape,
    )
    sampler = Sampler(policy, max_batch=options.batch, dtype=options.dtype)
    for row in range(options.batch):
        ids = torch.randint(1000, (options.context,)).tolist()
        sampler.submit(Request(row, ids, options.tokens, (row,)))
    while sampler.stats.prefilled < options.batch * (options.context - 1):
        sampler.advance()
    for _ in range(2):  # CUDA graphs are captured in these passes
        sampler.advance()
    begun = sampler.clock
    synchronize(model.device)
    began = time.perf_counter()
    while not sampler.advance():
        pass
    seconds = time.perf_counter() - began
    return options.batch * (sampler.clock - begun) / seconds


@torch.inference_mode()
def plain_loop(model: Any, batch: int, context: int, tokens: int) -> float:
    """Tokens/s of the plain loop, prefill left out."""
    cache = DynamicCache(config=model.config)
    ids = torch.randint(1000, (batch, context), device=model.device)
    mask = torch.ones_like(ids)
    seconds = 0.0
    for step in range(tokens + 1):
        synchronize(model.device)
        began = time.perf_counter()
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        ids = torch.multinomial(logprobs.exp(), 1)
        logprobs.gather(1, ids)[:, 0].tolist()
        mask = torch.cat([mask, mask.new_ones(batch, 1)], dim=1)
        if step:
            seconds += time.perf_counter() - began
    return batch * tokens / seconds


def measured_bandwidth(device: torch.device) -> float:
    """GB/s read and written while copying 4 GiB, the median of 20 copies."""
    source = torch.ones(2**30, device=device)
    target = torch.empty_like(source)
    rates = []
    for _ in range(23):
        synchronize(device)
        began = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        rates.append(2 * source.nbytes / (time.perf_counter() - began) / 1e9)
    rate = statistics.median(rates[3:])
    print(f"{torch.cuda.get_device_name(device)}, memory copied at {rate:.0f} GB/s")
    return rate


def tokens_at(bandwidth: float, model: Any, options: Decode) -> float:
    """Tokens/s if all time went into reading the weights once per pass and all cached tokens."""
    config = model.config
    size = getattr(torch, options.dtype).itemsize
    weights = sum(p.numel() for p in model.parameters()) * size
    cell = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * size
    cached = options.batch * (options.context + options.tokens / 2) * cell
    return options.batch * bandwidth * 1e9 / (weights + cached)


def synchronize(device: torch.device) -> None:
    """Wait for all work queued on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def print_figures(rows: list[dict[str, float]]) -> None:
    """Print each figure's median, lowest and highest value."""
    lines = []
    for name in rows[0]:
        values = sorted(row[name] for row in rows)
        low, middle, high = (
            f"{value:.0f}" if value >= 100 else f"{value:.3g}"
            for value in (values[0], statistics.median(values), values[-1])
        )
        lines.append([name, middle, f"{low} - {high}"])
    print(table(["", "median", "lowest - highest"], lines), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
