"""Checks of model and machine: weights, sandbox, memory, attention."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, replace

import torch

from cleaner_rl.doctor.subject import Finding, Subject
from cleaner_rl.errors import OutageError
from cleaner_rl.learner.attention import backend
from cleaner_rl.models.backends import has_triton
from cleaner_rl.models.memory import ModelShape, available_memory, estimate_memory, head_size
from cleaner_rl.models.policy import resolve_device
from cleaner_rl.rollout.environment import open_sandbox
from cleaner_rl.trainer import check_policy

_PROGRAMS = 20
"""How many empty programs are timed."""
_SLOW_MS = 50.0
"""A higher median slows training down noticeably."""
_GIB = 2**30


def check_model(subject: Subject) -> Finding:
    """Model and tokenizer must load, and packed samples must give the model's own numbers."""
    context = subject.context_length
    if not subject.doctor.weights:
        size = len(subject.tokenizer)
        text = f"tokenizer of {size} tokens, context of {context} tokens; weights not loaded"
        return Finding("ok", text)
    policy = subject.policy
    check_policy(policy, subject.config)
    parameters = sum(parameter.numel() for parameter in policy.model.parameters())
    text = (
        f"{parameters / 1e6:.1f} million parameters on {policy.device}, context of {context} "
        "tokens; packed samples give the model's own log-probabilities"
    )
    return Finding("ok", text, details={"parameters": parameters, "context_length": context})


def check_sandbox(subject: Subject) -> Finding:
    """Programs must be isolated, and fast enough not to delay sampling."""
    try:
        sandbox = open_sandbox(replace(subject.config.episode, workers=1))
    except OutageError as error:
        return Finding("failed", str(error), "python -m sandbox doctor says what is missing")
    with sandbox:
        milliseconds = []
        for _ in range(_PROGRAMS):
            began = time.perf_counter()
            result = sandbox.run("")
            milliseconds.append((time.perf_counter() - began) * 1e3)
            if not result.ok:
                return Finding(
                    "failed",
                    f"an empty program ended as {result.status.value}: {result.traceback.strip()}",
                    "raise --code-seconds if it timed out; python -m sandbox doctor says more",
                )
        tier, tried = sandbox.tier, list(sandbox.tried)
    median = statistics.median(milliseconds)
    text = f"tier {tier}, an empty program takes {median:.1f} ms (median of {_PROGRAMS})"
    details = {"tier": tier, "median_ms": round(median, 2), "not_reached": tried}
    if tier == "rlimits":
        text += ": programs are not isolated and can read your files"
        remedy = "python -m sandbox doctor says how to get isolation"
        allowed = subject.config.episode.allow_weak
        return Finding("warning" if allowed else "failed", text, remedy, details)
    if tier != "full":
        return Finding("warning", text, "python -m sandbox doctor says what that costs", details)
    if median > _SLOW_MS:
        return Finding("warning", text, "is the machine busy? Give it more cores", details)
    return Finding("ok", text, details=details)


def check_memory(subject: Subject) -> Finding:
    """Training should fit into the device's memory, by an estimate."""
    config, device = subject.config, resolve_device(subject.config.device)
    shape = ModelShape.of(subject.model_config)
    context = config.max_prompt_tokens + config.episode.max_response_tokens
    batch = min(config.episode.sample_batch, config.prompts * config.group_size)
    estimate = estimate_memory(
        shape, config.dtype, config.update.pack_tokens, batch, context, in_place=has_triton(device)
    )
    available = available_memory(device)
    sizes = {name: _size(size) for name, size in asdict(estimate).items()}
    cache = sizes.pop("cache")
    learning = ", ".join(f"{name} {size}" for name, size in sizes.items())
    text = (
        f"estimate {_size(estimate.total)} ({learning}; while sampling, a cache of {cache} instead "
        f"of the last two); {_size(available)} are free on {device}"
    )
    details = {**asdict(estimate), "total": estimate.total, "available": available}
    if estimate.total <= available:
        return Finding("ok", text, details=details)
    fixed = estimate.weights + estimate.gradients + estimate.optimiser
    remedy = "use a smaller model or a larger device: weights, gradients and optimiser do not fit"
    if fixed < available:
        remedy = (
            "lower --pack-tokens (activations) or --sample-batch (cache); weights, gradients and "
            f"optimiser take {_size(fixed)}"
        )
    return Finding("warning", text, remedy, details)


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB / 10 else f"{count / 2**20:.0f} MiB"


def check_attention(subject: Subject) -> Finding:
    """Which implementation computes the attention of packed samples."""
    config, device = subject.config, resolve_device(subject.config.device)
    dtype = getattr(torch, config.dtype)
    chosen = backend(device, dtype, head_size(subject.model_config))
    if device.type == "cpu":
        return Finding("ok", f"{chosen}, one call per sample, as always on a CPU")
    if chosen != "sdpa":
        return Finding("ok", f"{chosen}, one call per pack")
    text = f"sdpa, one call per sample, which is slow for many short ones on {device}"
    if dtype == torch.float32:
        return Finding("warning", text, "use --dtype bfloat16 or float16")
    return Finding("warning", text, "install flash-attn")
