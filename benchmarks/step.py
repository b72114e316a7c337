"""Time one whole training step, sampling and learning, at the paper's settings for 4B.

    python benchmarks/step.py --peak-tflops 989       Qwen3-4B's shape, scaled down to one GPU
    python benchmarks/step.py --shape bundled --response 256 --dtype float32      the bundled policy

The settings are those of ``--preset qwen3-4b``, with fewer and shorter episodes. Random weights
neither call a tool nor end an episode, so every episode has the full length and no time goes to
tools (``benchmarks/engine.py`` measures that). All episodes earn the same, so their advantages are
drawn at random. A short step comes first and is not counted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import tyro
from engine import synchronize
from update import model_of

from cleaner_env.chat import ChatCodec
from cleaner_env.episode import Episode
from cleaner_rl.config import PRESETS, TrainConfig
from cleaner_rl.grpo.credit import episode_samples
from cleaner_rl.grpo.samples import Sample
from cleaner_rl.inference.sampler import Sampler
from cleaner_rl.learner.update import Updater
from cleaner_rl.models.policy import Policy, load_tokenizer, resolve_device
from cleaner_rl.rollout.rollout import Rollout
from cleaner_rl.settings import Precision, change
from cleaner_rl.trainer import load_source


@dataclass(frozen=True)
class Step:
    """Settings that scale the step."""

    shape: Literal["bundled", "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b"] = "qwen3-4b"
    """The bundled policy, or random weights in the shape of a Qwen3 model."""
    prompts: int = 8
    """Groups; the authors use 128."""
    group_size: int = 16
    """Episodes per group."""
    updates: int = 4
    """Optimiser updates, each on an equal share of the groups."""
    response: int = 2048
    """Most tokens of an episode after its prompt; the authors allow 20480."""
    pack_tokens: int = 16384
    """Most tokens of a row; the authors use 32768."""
    dtype: Precision = "bfloat16"
    """Precision of the passes."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass."""
    device: str = "auto"
    """Device, as for --device of the trainer."""
    peak_tflops: float = 0.0
    """Peak TFLOP/s of the device in that precision, to compute the share in use (MFU)."""


def main(arguments: list[str]) -> None:
    """Run the benchmark and print its figures."""
    options = tyro.cli(Step, args=arguments)
    config = change(
        PRESETS["qwen3-4b"],
        prompts=options.prompts,
        group_size=options.group_size,
        minibatch_prompts=max(1, options.prompts // options.updates),
        max_response_tokens=options.response,
        max_turn_tokens=options.response,
        overlong_buffer=options.response // 5,
        pack_tokens=options.pack_tokens,
        dtype=options.dtype,
        gradient_checkpointing=options.gradient_checkpointing,
    )
    device = resolve_device(options.device)
    tokenizer = load_tokenizer("bundled")
    policy = Policy(
        model_of(options.shape, device), tokenizer, ChatCodec(tokenizer, []), options.shape
    )
    updater = Updater(policy.model, config.update, dtype=config.dtype, budget=options.response)
    sampler = Sampler(policy, max_batch=config.episode.sample_batch, dtype=config.dtype)
    with Rollout(policy, sampler, config.episode) as rollout:
        short = replace(config.episode, max_response_tokens=max(16, options.response // 16))
        with Rollout(policy, sampler, short) as warm:
            step(warm, updater, config)
        report(options, policy, *step(rollout, updater, config))


def step(
    rollout: Rollout, updater: Updater, config: TrainConfig
) -> tuple[list[Episode], list[list[Sample]], dict[str, float]]:
    """Play the groups and learn from them: episodes, minibatches, and seconds and peak bytes."""
    device = rollout.policy.device
    source = load_source(config.tasks, "train", config.seed)
    tasks = [source[i // config.group_size] for i in range(config.prompts * config.group_size)]
    began, figures = _begin(device), {}
    episodes = rollout.play(tasks, seed=0)
    figures["sampling"], figures["sampling peak"] = _end(device, began)
    began = _begin(device)
    samples = _samples(episodes, rollout)
    each = config.minibatch_prompts * config.group_size
    minibatches = [samples[i : i + each] for i in range(0, len(samples), each)]
    updater.update(minibatches)
    rollout.sampler.reset()
    figures["learning"], figures["learning peak"] = _end(device, began)
    return episodes, minibatches, figures


def report(
    options: Step,
    policy: Policy,
    episodes: Sequence[Episode],
    minibatches: Sequence[Sequence[Sample]],
    figures: dict[str, float],
) -> None:
    """Print what the step took."""
    parameters = sum(p.numel() for p in policy.model.parameters())
    sampled = sum(e.stats.tokens_sampled for e in episodes)
    learned = sum(len(sample) for samples in minibatches for sample in samples)
    total = figures["sampling"] + figures["learning"]
    print(
        f"{options.shape}, {parameters / 1e6:.0f}M parameters, {options.dtype}, {_name(policy)}, "
        f"torch {torch.__version__}; {len(episodes)} episodes, {len(minibatches)} updates"
    )
    # 6 FLOP for forward and backward, 2 for old log-probabilities if there are several updates.
    passes = 6 + 2 * (len(minibatches) > 1)
    used = passes * parameters * learned / figures["learning"] / 1e12
    mfu = f", MFU {used / options.peak_tflops:.0%}" if options.peak_tflops else ""
    print(f"sampling {figures['sampling']:6.1f} s, {sampled / figures['sampling']:8.0f} tokens/s")
    print(
        f"learning {figures['learning']:6.1f} s, {learned / figures['learning']:8.0f} tokens/s"
        f"{mfu} (recomputed activations are not counted)"
    )
    print(f"step     {total:6.1f} s, {len(episodes) / total:.2f} trajectories/s")
    if policy.device.type == "cuda":
        print(
            f"peak memory {figures['sampling peak'] / 2**30:.1f} GiB sampling, "
            f"{figures['learning peak'] / 2**30:.1f} GiB learning"
        )


def _samples(episodes: Sequence[Episode], rollout: Rollout) -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    return [
        sample
        for number, episode in enumerate(episodes)
        for sample in episode_samples(
            episode,
            float(torch.randn(1, generator=generator)),
            rollout.prompt_ids(episode),
            rollout.observation_ids,
            number=number,
        )
    ]


def _begin(device: torch.device) -> float:
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return time.perf_counter()


def _end(device: torch.device, began: float) -> tuple[float, float]:
    """Seconds since ``began``, and the most bytes in use."""
    synchronize(device)
    seconds = time.perf_counter() - began
    return seconds, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0.0


def _name(policy: Any) -> str:
    return torch.cuda.get_device_name() if policy.device.type == "cuda" else "cpu"


if __name__ == "__main__":
    main(sys.argv[1:])
