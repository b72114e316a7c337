"""Cold start: ``python -m cleaner_rl.sft`` teaches a model the tool by demonstrations.

Demonstrations are generated and executed, a model is trained on the assistant's tokens, saved as an
ordinary Hugging Face directory and evaluated on held-out tasks. The preset ``tiny`` builds the
bundled policy and its tokenizer from this repository alone; ``--base`` continues from a pretrained
model with its own tokenizer and chat template.
"""

from __future__ import annotations

if __name__ == "__main__":  # arguments are checked before the imports below, which take seconds
    from cleaner_rl.commands import start

    start("sft")

import hashlib
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cleaner_env.chat import ChatCodec
from cleaner_env.formats import TextFormat
from cleaner_env.interpreter import Limits, Sandbox, SandboxError
from cleaner_env.tasks.load import first_tasks
from cleaner_rl.errors import UserError
from cleaner_rl.eval.evaluate import Evaluation, evaluate
from cleaner_rl.models.policy import Policy, load_policy, resolve_device
from cleaner_rl.runs.files import write_json
from cleaner_rl.runs.lock import reserved
from cleaner_rl.runs.metrics import LABELS
from cleaner_rl.runs.progress import CountProgress
from cleaner_rl.sft.config import SftArgs, parse_sft
from cleaner_rl.sft.demonstrations.episodes import Demonstration, generate_demonstrations
from cleaner_rl.sft.demonstrations.examples import Example, encode_demonstration, length_batches
from cleaner_rl.sft.demonstrations.gsm8k import Gsm8kPrograms
from cleaner_rl.sft.demonstrations.programs import program_book
from cleaner_rl.sft.model import BUILD, build_model, check_out, load_base, save_policy
from cleaner_rl.sft.tokenizer import train_tokenizer
from cleaner_rl.sft.training import Partial, train_on_examples
from cleaner_rl.trainer import load_source

Pair = tuple[Demonstration, Example]
"""A demonstration and its tokens."""


def build_policy(args: SftArgs) -> dict[str, Any]:
    """The whole build; returns what ``build.json`` records."""
    check_out(args.out, args.overwrite)
    resolve_device(args.device)  # refused before the demonstrations, which take minutes
    partial = _partial(args)
    started = time.monotonic()
    if not args.from_scratch:
        print(f"loading {args.base} ...", file=sys.stderr, flush=True)
    base = None if args.from_scratch else load_base(args.base, args.device, args.max_tokens)
    demonstrations = make_demonstrations(args, base.codec.make_format() if base else None)
    policy = base or policy_from_scratch(args, demonstrations)
    examples = [encode_demonstration(d, policy.codec, args.learn_slips) for d in demonstrations]
    limit = min(args.max_tokens, policy.context_length)
    pairs = zip(demonstrations, examples, strict=True)
    fitting = [(d, example) for d, example in pairs if len(example.ids) <= limit]
    if not fitting:
        raise UserError(f"every demonstration is longer than {limit} tokens; raise --max-tokens")
    loss = _train(args, policy, fitting, partial)
    figures: dict[str, Any] = {
        **describe(fitting),
        "left_out": len(demonstrations) - len(fitting),
        "parameters": sum(p.numel() for p in policy.model.parameters()),
        "loss": round(loss, 4),
        "build_seconds": round(time.monotonic() - started),
    }
    build = {"configuration": {**asdict(args), "out": args.out.name}, "figures": figures}
    save_policy(policy, build, args.out)
    shutil.rmtree(partial.directory, ignore_errors=True)
    if args.eval_tasks:
        try:
            figures["held_out"] = evaluate_policy(args).summary()
        except KeyboardInterrupt:
            print("\nevaluation stopped; the policy is saved", file=sys.stderr)
        write_json(args.out / BUILD, build)
    return build


def _training_path(args: SftArgs) -> Path:
    return args.out.with_name(f".{args.out.name}.training")


def _partial(args: SftArgs) -> Partial:
    """Where the training under way is kept; what is there is removed or resumed on request only."""
    partial = Partial(_training_path(args), args.learned_by())
    if args.resume and not partial.exists:
        raise UserError(f"there is no interrupted training of --out {args.out}; leave out --resume")
    if partial.exists and not args.resume:
        if not args.overwrite:
            raise UserError(
                f"there is an interrupted training of --out {args.out}; add --resume to continue "
                "it, or --overwrite to begin anew"
            )
        shutil.rmtree(partial.directory, ignore_errors=True)
    return partial


def make_demonstrations(args: SftArgs, format: TextFormat | None) -> list[Demonstration]:
    """All demonstrations of a build, each program executed in the sandbox."""
    tasks, book = load_source(args.tasks, "train", args.seed), program_book(args.tasks)
    if args.eval_tasks:
        load_source(args.tasks, "test", args.seed)  # none is a matter of seconds, not of hours
    if isinstance(programs := book.get("gsm8k"), Gsm8kPrograms):
        print(f"GSM8K: {len(programs.steps)} of {programs.solutions} solutions give a program")
    elif not args.from_scratch:
        print("no GSM8K among --tasks, reasoning-gym only; add it with 'gsm8k:FILE + ...'")
    demonstrations = []
    limits = Limits(wall_s=2.0)
    with (
        CountProgress("demonstrations", args.demonstrations) as progress,
        Sandbox(workers=args.workers, limits=limits, allow_weak=args.allow_weak) as sandbox,
    ):
        for demonstration in generate_demonstrations(
            args.demonstrations,
            sandbox.run,
            seed=args.seed,
            mix=args.mix,
            threads=args.workers,
            tasks=tasks,
            book=book,
            format=format,
        ):
            demonstrations.append(demonstration)
            progress.show(len(demonstrations))
    return demonstrations


def policy_from_scratch(args: SftArgs, demonstrations: Sequence[Demonstration]) -> Policy:
    """A small model with random weights, and a tokenizer learned from the demonstrations."""
    texts: list[str] = []
    for demonstration in demonstrations:
        texts.append(demonstration.prompt)
        for turn in demonstration.turns:
            texts += (turn.text, turn.observation or "")
    tokenizer = train_tokenizer(texts, args.model.vocab_size)
    model = build_model(tokenizer, args.model, args.seed).to(resolve_device(args.device))
    return Policy(model, tokenizer, ChatCodec(tokenizer), args.base)


def _train(args: SftArgs, policy: Policy, pairs: Sequence[Pair], partial: Partial) -> float:
    """The whole training; returns the last smoothed loss."""
    clean = [example for demonstration, example in pairs if not demonstration.bugs]
    whole = [example for _, example in pairs]
    batches = [
        *length_batches(clean, args.batch_tokens, args.clean_epochs, args.seed),
        *length_batches(whole, args.batch_tokens, args.epochs, args.seed),
    ]
    # A resumed training must have the same tokens in the same order.
    digest = hashlib.blake2b(digest_size=16)
    for batch in batches:
        digest.update(repr([example.ids for example in batch]).encode())
    partial.settings = {**partial.settings, "batches": digest.hexdigest()}
    tokens = [sum(len(example.ids) for example in batch) for batch in batches]
    progress = CountProgress("training steps", len(batches))
    began, first = time.monotonic(), 0

    def report(step: int, loss: float) -> None:
        nonlocal first
        first = first or step
        rate = sum(tokens[first - 1 : step]) / (time.monotonic() - began)
        progress.show(step, f", loss {loss:.3f}, {rate:.0f} tokens/s")

    with progress:
        return train_on_examples(
            policy,
            batches,
            learning_rate=args.learning_rate,
            weight_decay=args.weight_decay,
            dtype=args.dtype,
            report=report,
            partial=partial,
        )


def evaluate_policy(args: SftArgs) -> Evaluation:
    """The saved policy on held-out tasks: temperature 1, no rollback, one episode per task."""
    tasks = first_tasks(load_source(args.tasks, "test", args.seed), args.eval_tasks)
    policy = load_policy(str(args.out), device=args.device)
    with CountProgress("held-out tasks", len(tasks)) as progress:
        return evaluate(
            policy,
            tasks,
            args.rollout(),
            seed=args.seed,
            dtype=args.dtype,
            on_progress=lambda done, _: progress.show(done),
        )


def describe(pairs: Sequence[Pair]) -> dict[str, float]:
    """Shares and lengths of the demonstrations, as they came out."""
    count = len(pairs)
    return {
        "demonstrations": count,
        "share_buggy": round(sum(bool(d.bugs) for d, _ in pairs) / count, 3),
        "share_two_bugs": round(sum(len(d.bugs) > 1 for d, _ in pairs) / count, 3),
        "share_wrong": round(sum(not d.right for d, _ in pairs) / count, 3),
        "tokens_each": round(sum(len(example.ids) for _, example in pairs) / count, 1),
        "trained_tokens_each": round(sum(sum(example.trained) for _, example in pairs) / count, 1),
    }


def summary_lines(build: dict[str, Any]) -> Iterator[str]:
    """The figures of a build for people."""
    figures = build["figures"]
    yield (
        f"{figures['demonstrations']} demonstrations: {figures['share_buggy']:.0%} with a bug, "
        f"{figures['share_two_bugs']:.0%} with two, {figures['share_wrong']:.0%} wrong but running"
    )
    if figures["left_out"]:
        yield f"{figures['left_out']} more were longer than --max-tokens and left out"
    yield f"{figures['parameters'] / 1e6:.2f} M parameters, built in {figures['build_seconds']} s"
    if held_out := figures.get("held_out"):
        metrics, error = held_out["metrics"], held_out["standard_errors"]["accuracy"]
        yield f"on {held_out['tasks']} held-out tasks, temperature 1, rollback off:"
        yield f"  accuracy: {metrics['accuracy']:.1%} (standard error {error:.1%})"
        for name in ("calls", "first_call_failed", "failed_calls", "recovery", "tokens_sampled"):
            label, form = LABELS[name]
            yield f"  {label}: {form.format(metrics[name])}"
        yield f"  tokens per demonstration, all included: {figures['tokens_each']:.0f}"
        yield "  accuracy by family: " + ", ".join(
            f"{name} {family['accuracy']:.2f}" for name, family in held_out["families"].items()
        )


def main(arguments: Sequence[str]) -> int:
    args = parse_sft(arguments)
    try:
        with reserved(args.out, beside=True):
            build = build_policy(args)
    except SandboxError as error:
        raise UserError(str(error)) from error
    except KeyboardInterrupt:
        print(f"\nstopped before the end; --out {args.out} was not touched", file=sys.stderr)
        if _training_path(args).is_dir():
            print("the training so far is kept: the same command with --resume", file=sys.stderr)
        return 130
    print("\n".join(summary_lines(build)))
    print(f"saved to {args.out}")
    return 0
