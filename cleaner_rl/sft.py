"""Cold start: ``python -m cleaner_rl.sft`` builds the bundled policy from this repository alone.

Demonstrations are generated and executed, a tokenizer is learned from them, a small
Qwen3-architecture model is trained on the assistant's tokens, saved as an ordinary Hugging Face
directory and evaluated on held-out tasks. The parts (`encode_demonstration`, `length_batches`,
`train_on_examples`) know nothing of the small model and serve any causal language model with a chat
template.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from cleaner_env.interpreter import Limits, Sandbox, SandboxError
from cleaner_env.tasks import ReasoningGymTasks
from cleaner_rl.chat import ChatCodec
from cleaner_rl.demonstrations import (
    IGNORED,
    Demonstration,
    DemonstrationError,
    DemonstrationMix,
    Example,
    collate,
    encode_demonstration,
    generate_demonstrations,
    length_batches,
)
from cleaner_rl.errors import UserError, run_command
from cleaner_rl.evaluation import Evaluation, evaluate
from cleaner_rl.policy import KNOWS_TOOL, load_policy
from cleaner_rl.progress import CountProgress
from cleaner_rl.rollout import RolloutConfig
from cleaner_rl.tokenizer import train_tokenizer

__all__ = ["ModelArgs", "SftArgs", "SftError", "build_policy", "main", "train_on_examples"]


class SftError(UserError):
    """A cold start that cannot go on."""


@dataclass(frozen=True)
class ModelArgs:
    """Shape of the model that is trained from scratch."""

    vocab_size: int = 1024
    """Tokens of the vocabulary, bytes and added tokens included."""
    hidden_size: int = 192
    """Width of the residual stream."""
    layers: int = 4
    """Number of transformer blocks."""
    heads: int = 6
    """Query heads, each of width 32."""
    kv_heads: int = 2
    """Key and value heads."""
    mlp_size: int = 576
    """Width inside the MLP."""
    max_length: int = 1024
    """Longest sequence the model is meant for, in tokens."""


@dataclass(frozen=True)
class SftArgs:
    """Build the small tool-using policy: demonstrations, tokenizer, training, evaluation."""

    out: Path = Path("runs/policy")
    """Directory the policy is saved to, in the Hugging Face format."""
    overwrite: bool = False
    """Replace --out where it exists already."""
    seed: int = 0
    """Seed of demonstrations, initial weights and batches."""
    demonstrations: int = 16_000
    """Number of training episodes that are generated."""
    clean_epochs: float = 2.0
    """Passes over the episodes without bugs that come first: short ones, to learn copying from."""
    epochs: float = 1.0
    """Passes over all episodes. More leave the policy more certain, and RL less choice."""
    batch_tokens: int = 2048
    """Tokens per optimiser step, padding included."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW; a short warm-up, then a cosine down to a tenth."""
    weight_decay: float = 0.05
    """Weight decay of the matrices."""
    workers: int = 2
    """Sandbox workers that execute programs."""
    allow_weak: bool = False
    """Run programs without isolation where bubblewrap does not work."""
    eval_tasks: int = 480
    """Held-out tasks of the evaluation at the end; 0 skips it."""
    mix: DemonstrationMix = field(default_factory=DemonstrationMix)
    """Shares of bugs and wrong programs in the demonstrations."""
    model: ModelArgs = field(default_factory=ModelArgs)
    """Shape of the model."""


def assistant_loss(model: Any, ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
    """Mean cross-entropy of the assistant's tokens, each given what is before it.

    Padding is on the right, where causal attention never looks at it, so no attention mask is
    needed; logits are computed at the trained positions only.
    """
    hidden_BTD = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1]
    targets_BT = labels_BT[:, 1:]
    chosen_BT = targets_BT != IGNORED
    logits_TV = model.get_output_embeddings()(hidden_BTD[chosen_BT])
    return F.cross_entropy(logits_TV.float(), targets_BT[chosen_BT])


def build_model(tokenizer: Any, shape: ModelArgs, seed: int) -> Any:
    """A Qwen3-architecture model with random weights."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=32,
        intermediate_size=shape.mlp_size,
        max_position_embeddings=shape.max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.04,
        **{KNOWS_TOOL: True},
    )
    return Qwen3ForCausalLM(config).float()


def train_on_examples(
    model: Any,
    batches: Sequence[Sequence[Example]],
    *,
    learning_rate: float,
    weight_decay: float,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> float:
    """One AdamW step per batch, with warm-up and cosine decay; returns the last smoothed loss."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    warmup = max(1, len(batches) // 20)

    def factor(step: int) -> float:
        progress = step / max(1, len(batches))
        return min((step + 1) / warmup, 0.1 + 0.45 * (1 + math.cos(math.pi * progress)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    smoothed = math.nan
    for step, batch in enumerate(batches):
        loss = assistant_loss(model, *collate(batch))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        smoothed = loss.item() if math.isnan(smoothed) else 0.95 * smoothed + 0.05 * loss.item()
        report(step + 1, smoothed)
    return smoothed


def save_policy(model: Any, tokenizer: Any, build: dict[str, Any], out: Path) -> None:
    """Writes a Hugging Face directory and its ``build.json``, complete or not at all.

    Weights are stored in half precision; the configuration says float32, so that they are loaded
    as such.
    """
    scratch = out.with_name(f".{out.name}.writing")
    replaced = out.with_name(f".{out.name}.replaced")
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    model.half().save_pretrained(scratch)
    model.float()
    config = json.loads((scratch / "config.json").read_text())
    (scratch / "config.json").write_text(
        json.dumps({**config, "dtype": "float32"}, indent=2) + "\n"
    )
    tokenizer.save_pretrained(scratch)
    _write_build(build, scratch)
    for path in scratch.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner can read
    if out.exists():
        out.rename(replaced)
    scratch.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


def _write_build(build: dict[str, Any], directory: Path) -> None:
    """Replaces ``build.json`` in one step."""
    scratch = directory / ".build.json.writing"
    scratch.write_text(json.dumps(build, indent=2) + "\n")
    scratch.replace(directory / "build.json")


def check_out(out: Path, overwrite: bool) -> None:
    """Refuses, before any work, an output directory that cannot or must not be written.

    Raises:
        SftError: it holds something and --overwrite was not given, or holds something that is no
            policy, or its parent cannot be written to.
    """
    if out.exists() and not out.is_dir():
        raise SftError(f"--out {out} is a file; name a directory")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise SftError(
                f"--out {out} is not empty; add --overwrite to replace it, or name another"
            )
        if not (out / "tokenizer.json").exists() or (out / "checkpoints").exists():
            raise SftError(
                f"--out {out} holds something else than a policy, which --overwrite would delete; "
                "name another directory"
            )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = out.with_name(f".{out.name}.writing")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        scratch.rmdir()
    except OSError as error:
        raise SftError(
            f"cannot write to {out.parent} ({error.strerror}); name another --out"
        ) from error


def make_demonstrations(args: SftArgs) -> list[Demonstration]:
    """All demonstrations of a build, each program executed in the sandbox."""
    progress = CountProgress("demonstrations", args.demonstrations)
    demonstrations = []
    limits = Limits(wall_s=2.0)
    with Sandbox(workers=args.workers, limits=limits, allow_weak=args.allow_weak) as sandbox:
        made = generate_demonstrations(
            args.demonstrations, sandbox.run, seed=args.seed, mix=args.mix, threads=args.workers
        )
        for demonstration in made:
            demonstrations.append(demonstration)
            progress.show(len(demonstrations))
    return demonstrations


def _texts(demonstrations: Sequence[Demonstration]) -> Iterator[str]:
    """Every text of the demonstrations, for the tokenizer to learn from."""
    for demonstration in demonstrations:
        yield demonstration.prompt
        for turn in demonstration.turns:
            yield from (turn.text, turn.observation or "")


def build_policy(args: SftArgs) -> dict[str, Any]:
    """Runs the whole build and returns what ``build.json`` records."""
    check_out(args.out, args.overwrite)
    disable_progress_bar()
    started = time.monotonic()
    demonstrations = make_demonstrations(args)
    tokenizer = train_tokenizer(_texts(demonstrations), args.model.vocab_size)
    codec = ChatCodec(tokenizer)
    examples = [encode_demonstration(demonstration, codec) for demonstration in demonstrations]
    model = build_model(tokenizer, args.model, args.seed)
    clean = [example for example, d in zip(examples, demonstrations, strict=True) if not d.bugs]
    batches = [
        *length_batches(clean, args.batch_tokens, args.clean_epochs, args.seed),
        *length_batches(examples, args.batch_tokens, args.epochs, args.seed),
    ]
    progress = CountProgress("training steps", len(batches))
    loss = train_on_examples(
        model,
        batches,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        report=lambda step, loss: progress.show(step, f", loss {loss:.3f}"),
    )
    figures: dict[str, Any] = {
        **describe(demonstrations, examples),
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss": round(loss, 4),
        "build_seconds": round(time.monotonic() - started),
    }
    build = {"configuration": {**asdict(args), "out": args.out.name}, "figures": figures}
    save_policy(model, tokenizer, build, args.out)
    if args.eval_tasks:
        try:
            figures["held_out"] = evaluate_policy(args).summary()
        except KeyboardInterrupt:
            print("\nevaluation stopped; the policy is saved", file=sys.stderr)
        _write_build(build, args.out)
    return build


def evaluate_policy(args: SftArgs) -> Evaluation:
    """The saved policy on held-out tasks: temperature 1, no rollback, one episode a task."""
    progress = CountProgress("held-out tasks", args.eval_tasks)
    tasks = ReasoningGymTasks(split="test", seed=args.seed)
    return evaluate(
        load_policy(str(args.out), device="cpu"),
        [tasks[index] for index in range(args.eval_tasks)],
        RolloutConfig(rollback=False, workers=args.workers, allow_weak=args.allow_weak),
        seed=args.seed,
        on_progress=lambda done, _: progress.show(done),
    )


def describe(
    demonstrations: Sequence[Demonstration], examples: Sequence[Example]
) -> dict[str, float]:
    """Shares and lengths of the demonstrations, as they came out."""
    count = len(demonstrations)
    return {
        "demonstrations": count,
        "share_buggy": round(sum(bool(d.bugs) for d in demonstrations) / count, 3),
        "share_two_bugs": round(sum(len(d.bugs) > 1 for d in demonstrations) / count, 3),
        "share_wrong": round(sum(not d.right for d in demonstrations) / count, 3),
        "tokens_each": round(sum(len(e.ids) for e in examples) / count, 1),
        "trained_tokens_each": round(sum(sum(e.trained) for e in examples) / count, 1),
    }


def summary_lines(build: dict[str, Any]) -> Iterator[str]:
    """The figures of a build for people."""
    figures = build["figures"]
    yield (
        f"{figures['demonstrations']} demonstrations: {figures['share_buggy']:.0%} with a bug, "
        f"{figures['share_two_bugs']:.0%} with two, {figures['share_wrong']:.0%} wrong but running"
    )
    yield f"{figures['parameters'] / 1e6:.2f} M parameters, built in {figures['build_seconds']} s"
    if held_out := figures.get("held_out"):
        metrics, error = held_out["metrics"], held_out["standard_errors"]["accuracy"]
        yield f"on {held_out['tasks']} held-out tasks, temperature 1, rollback off:"
        yield f"  accuracy            {metrics['accuracy']:.3f} (standard error {error:.3f})"
        yield f"  first call fails    {metrics['first_call_failed']:.3f} of the episodes"
        yield f"  failed calls        {metrics['failed_calls']:.3f} per episode"
        yield f"  recovery            {metrics['recovery']:.3f} of failures, at the next call"
        yield f"  tokens              {metrics['tokens_sampled']:.0f} sampled per episode"
        yield f"                      {figures['tokens_each']:.0f} per demonstration, all included"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status.

    Raises:
        UserError: something that the user can mend.
    """
    args = tyro.cli(SftArgs, args=argv, prog="python -m cleaner_rl.sft")
    try:
        build = build_policy(args)
    except (DemonstrationError, SandboxError) as error:
        raise SftError(str(error)) from error
    except KeyboardInterrupt:
        print(f"\nstopped before the end; --out {args.out} was not touched", file=sys.stderr)
        return 130
    print("\n".join(summary_lines(build)))
    print(f"saved to {args.out}")
    return 0


if __name__ == "__main__":
    run_command(main)
