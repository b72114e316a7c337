"""Updates with and without shared prefixes: ``benchmarks/update.py tree`` and ``shapes``."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

import torch
import tyro
from update import measure, model_of

from cleaner_rl.config import PRESETS
from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.grpo.groups import minibatch_samples
from cleaner_rl.grpo.samples import Sample
from cleaner_rl.learner.packing import pack
from cleaner_rl.learner.update import Updater
from cleaner_rl.models.policy import load_policy, resolve_device
from cleaner_rl.rollout.rollout import Rollout
from cleaner_rl.settings import Precision, UpdateConfig, change
from cleaner_rl.train import compared
from cleaner_rl.trainer import load_source


@dataclass(frozen=True)
class Tree:
    """Updates with and without shared prefixes, on the first step of the bundled policy."""

    prompts: int = 16
    """Problems of the step."""
    group_size: int = 8
    """Episodes of each."""
    seed: int = 0
    """Seed of the step."""
    repeats: int = 5
    """Updates of each kind, in turn, after warm-up."""


@dataclass(frozen=True)
class Shapes:
    """Updates with and without shared prefixes, on random groups of one problem."""

    shape: Literal["bundled", "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b"] = "bundled"
    """The bundled policy, or random weights in the shape of a Qwen3 model."""
    prompt: tuple[int, ...] = (128, 512, 2048)
    """Tokens of the prompt."""
    episodes: tuple[int, ...] = (4, 16)
    """Episodes of the group."""
    branches: tuple[int, ...] = (0, 1)
    """Branches of each episode, which leave it in the middle."""
    response: int = 256
    """Tokens of an episode after its prompt; a branch has a quarter of its own."""
    pack_tokens: int = 16_384
    """Most tokens of a row."""
    dtype: Precision = "float32"
    """Precision, as for --dtype of the trainer."""
    device: str = "auto"
    """Device, as for --device of the trainer."""
    repeats: int = 3
    """Updates of each kind, in turn, after warm-up."""


def run(arguments: list[str]) -> None:
    """Run the benchmark that the first argument names, and print its table."""
    name, *options = arguments
    if name == "tree":
        tree(tyro.cli(Tree, args=options))
    else:
        shapes(tyro.cli(Shapes, args=options))


_HEADS = (
    f"{'tokens':>8} {'computed':>9} {'unique':>8} {'seconds':>16} {'faster':>7} {'peak MiB':>12}"
)
"""Columns of ``compare_sharing``; in pairs, the first figure is without shared prefixes."""


def compare_sharing(
    model: Any, samples: list[Sample], repeats: int, dtype: Precision = "float32", **settings: Any
) -> str:
    """Update with and without shared prefixes, in turn: a line of figures."""
    updaters = {
        share: Updater(
            model, UpdateConfig(learning_rate=1e-9, share_prefixes=share, **settings), dtype=dtype
        )
        for share in (False, True)
    }
    runs: dict[str, Callable[[], object]] = {
        str(share): partial(updater.update, [samples]) for share, updater in updaters.items()
    }
    seconds, peaks = measure(runs, model.device, repeats)
    used = [sample for sample in samples if sample.has_signal]
    rows = pack(used, updaters[True].config.pack_tokens, share=True)
    unique = len({hash(s.ids[: i + 1]) for s in used for i in range(len(s))})
    computed = sum(len(row.ids_U) for row in rows)
    without, shared = (statistics.median(seconds[str(share)]) for share in (False, True))
    memory = "/".join(f"{peaks[str(share)] / 2**20:.0f}" for share in (False, True))
    return (
        f"{sum(map(len, used)):8} {computed:9} {unique:8} {without:8.2f}/{shared:<7.2f} "
        f"{without / shared:7.2f} {memory:>12}"
    )


def tree(options: Tree) -> None:
    """Print what shared prefixes save on the samples of a step, without and with SAAR."""
    policy = load_policy("bundled", "cpu")
    print(f"{options.prompts} problems x {options.group_size}, {torch.get_num_threads()} threads")
    print(f"{'':20} {_HEADS}")
    for saar, rule in (("off", "purified"), ("on", "purified"), ("on", "branched")):
        config = change(
            PRESETS["tiny"],
            saar=saar,
            credit=rule,
            prompts=options.prompts,
            group_size=options.group_size,
        )
        count, size = options.prompts * options.group_size, options.group_size
        source = load_source(config.tasks, "train", options.seed)
        with Rollout.open(policy, config.episode, config.dtype) as rollout:
            played = rollout.play([source[i // size] for i in range(count)], seed=options.seed)
            groups = [
                compared(group, [episode.reward for episode in group], config)
                for group in (played[at : at + size] for at in range(0, count, size))
            ]
            (samples,) = minibatch_samples(
                groups,
                len(groups),
                config.credit,
                config.grafted,
                rollout.prompt_ids,
                rollout.observation_ids,
                Ranks(),
            )
        name = "without SAAR" if saar == "off" else rule
        print(f"{name:20} {compare_sharing(policy.model, samples, options.repeats)}", flush=True)


def shapes(options: Shapes) -> None:
    """Print what shared prefixes save by the shape of a group."""
    device = resolve_device(options.device)
    model = model_of(options.shape, device)
    model.config.max_position_embeddings = 1 << 16
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(model.config.vocab_size, (count,), generator=generator).tolist()

    print(f"{options.shape}, {options.dtype}, {device}, {torch.get_num_threads()} threads")
    print(f"{'prompt':>8} {'episodes':>9} {'branches':>9} {_HEADS}")
    for prompt, episodes, branches in product(options.prompt, options.episodes, options.branches):
        start, samples = ids(prompt), []
        for number in range(episodes):
            response = ids(options.response)
            samples.append(_trained(start, response, number))
            for _ in range(branches):
                own = ids(options.response // 4)
                samples.append(_trained(start + response[: len(response) // 2], own, number))
        line = compare_sharing(
            model, samples, options.repeats, options.dtype, pack_tokens=options.pack_tokens
        )
        print(f"{prompt:8} {episodes:9} {branches:9} {line}", flush=True)


def _trained(context: list[int], own: list[int], episode: int) -> Sample:
    """A sample whose last tokens are trained."""
    mask = (*[False] * len(context), *[True] * len(own))
    advantages = tuple((1.0 if episode % 2 else -1.0) * m for m in mask)
    logprobs = tuple(-1.0 * m for m in mask)
    return Sample((*context, *own), mask, advantages, logprobs, (False,) * len(mask), episode)
