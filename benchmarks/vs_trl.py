"""Compare TRL's GRPOTrainer with this project's trainer: same policy, problems and settings.

    pip install 'trl>=1.16,<2'
    python benchmarks/vs_trl.py                       twelve steps of each
    python benchmarks/vs_trl.py --show 3 --steps 1 --discard 0   print TRL's conversations
    python benchmarks/vs_trl.py --micro-batch 16      TRL with other batches in its update

Each trainer is its own process. They take steps in turn, so that one waits while another works; a
ratio compares a step with TRL's step of the same number, on the same problems. The first steps are
discarded as warm-up. Prints Markdown tables: speed and memory, then the rewards, which show whether
both learn the same thing. TRL runs programs with exec in its own process, without isolation
(benchmarks/trl_arm.py); this project runs them in its sandbox.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from io import StringIO
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean, median
from typing import Literal

import tyro
from measured_steps import Args, Arm, Step, Usage, wait
from trl_arm import trl

from cleaner_rl.runs.markdown import table

TRL, OFF, ON = "TRL", "SAAR off", "SAAR on"


def saar_off(args: Args, parent: Connection) -> None:
    """This project's trainer without rollback."""
    _train(args, parent, "off")


def saar_on(args: Args, parent: Connection) -> None:
    """This project's trainer with rollback, as in the tiny preset."""
    _train(args, parent, "on")


class _Gate:
    """Sends each step's metrics to the parent, and waits until the next step may begin."""

    def __init__(self, args: Args, parent: Connection) -> None:
        self.args, self.parent, self.usage = args, parent, Usage()

    def __call__(self, step: int, values: Mapping[str, float], episodes: object = ()) -> None:
        self.parent.send(
            Step(
                values["rollout/step_seconds"],
                values["rollout/sample_seconds"],
                values["rollout/reward"],
                values["rollout/calls"],
                values["rollout/failed_calls"],
                values["rollout/answered"],
                values["rollout/tokens_sampled"],
                **self.usage.step(),
            )
        )
        if step < self.args.steps:
            wait(self.parent)


def _train(args: Args, parent: Connection, saar: Literal["on", "off"]) -> None:
    import torch
    from rich.console import Console

    from cleaner_rl.config import PRESETS
    from cleaner_rl.runs.progress import TrainingProgress
    from cleaner_rl.settings import change
    from cleaner_rl.train import train
    from cleaner_rl.trainer import Trainer

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    with tempfile.TemporaryDirectory() as directory:
        config = change(
            PRESETS["tiny"],
            run_dir=str(Path(directory) / "run"),
            device="cpu",
            saar=saar,
            seed=args.seed,
            steps=args.steps,
            prompts=args.prompts,
            minibatch_prompts=args.prompts,
            group_size=args.group_size,
            max_turns=args.max_turns,
            max_turn_tokens=args.max_turn_tokens,
            max_response_tokens=args.max_response_tokens,
            learning_rate=args.learning_rate,
            warmup_steps=3,
            sample_batch=args.episodes,
            eval_tasks=0,
            save_every=args.steps,
        )
        with Trainer.open(config) as trainer:
            parent.send("ready")
            wait(parent)
            progress = TrainingProgress(0, args.steps, Console(file=StringIO()))
            trainer.log = _Gate(args, parent)
            train(trainer, progress)


def run(args: Args, arms: Mapping[str, Arm]) -> dict[str, list[Step]]:
    """Run the trainers' steps in turn and collect them."""
    context = get_context("spawn")
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    lines: dict[str, Connection] = {}
    taken: dict[str, list[Step]] = {name: [] for name in arms}
    with ExitStack() as stack:
        for name, arm in arms.items():
            ours, theirs = context.Pipe()
            context.Process(target=arm, args=(args, theirs), name=name).start()
            theirs.close()
            lines[name] = stack.enter_context(ours)
            _receive(ours, name)
        for number in range(1, args.steps + 1):
            for name, line in lines.items():
                line.send("go")
                taken[name].append(_receive(line, name))
            shown = ", ".join(f"{name} {steps[-1].seconds:.1f} s" for name, steps in taken.items())
            print(f"step {number}/{args.steps}: {shown}", file=sys.stderr, flush=True)
    return taken


def _receive(line: Connection, name: str) -> Step:
    try:
        step: Step = line.recv()
    except EOFError:
        raise SystemExit(f"{name} ended early; its own message is above") from None
    return step


def spread(values: Sequence[float], digits: int) -> str:
    """Median and range."""
    low, middle, high = (f"{f(values):.{digits}f}" for f in (min, median, max))
    return f"{middle} ({low} - {high})"


def print_speed(args: Args, taken: Mapping[str, list[Step]]) -> None:
    """Print the table of speed and memory, with the ratios to TRL."""
    counted = {name: steps[args.discard :] for name, steps in taken.items()}
    theirs = counted[TRL]

    rows: list[list[str]] = []

    def row(title: str, value: Callable[[Step], float], digits: int) -> None:
        cells = [spread([value(step) for step in steps], digits) for steps in counted.values()]
        rows.append([title, *cells])

    def ratios(title: str, value: Callable[[Step], float]) -> None:
        cells = ["1"] + [
            spread([value(t) / value(o) for t, o in zip(theirs, steps, strict=True)], 1)
            for name, steps in counted.items()
            if name != TRL
        ]
        rows.append([title, *cells])

    row("trajectories/s, sampling", lambda s: args.episodes / s.sampling, 1)
    ratios("times TRL's", lambda s: s.sampling)
    row("trajectories/s, whole step", lambda s: args.episodes / s.seconds, 1)
    ratios("times TRL's", lambda s: s.seconds)
    row("seconds per step", lambda s: s.seconds, 2)
    row("the update's part, s", lambda s: s.seconds - s.sampling, 2)
    row("processor seconds per step", lambda s: s.cpu, 2)
    ratios("TRL's, divided by its own", lambda s: s.cpu)
    row("tokens sampled per episode", lambda s: s.tokens, 0)
    row("sampled tokens/s, sampling", lambda s: s.tokens * args.episodes / s.sampling, 0)
    ratios("times TRL's", lambda s: s.sampling / s.tokens)
    row("calls per episode", lambda s: s.calls, 2)
    row("failed calls per episode", lambda s: s.failed, 2)
    row("episodes answered", lambda s: s.answered, 2)
    last = [steps[-1] for steps in counted.values()]
    rows.append(["peak memory, MiB", *(f"{s.memory:.0f}" for s in last)])
    rows.append(["its sandbox, MiB", *(f"{s.others:.0f}" for s in last)])
    print(table(["median (lowest - highest)", *counted], rows))
    parts = [
        ("generating", fmean(s.generating / s.seconds for s in theirs)),
        ("programs", fmean(s.tools / s.seconds for s in theirs)),
        (
            "parsing, templates, padding and scoring",
            fmean((s.sampling - s.generating - s.tools) / s.seconds for s in theirs),
        ),
        ("the update", fmean(1 - s.sampling / s.seconds for s in theirs)),
    ]
    print(f"TRL's time: {', '.join(f'{name} {share:.0%}' for name, share in parts)}.\n")


def print_rewards(taken: Mapping[str, list[Step]]) -> None:
    """Print the reward of every step."""
    rows = [
        [number, *(f"{step.reward:.3f}" for step in steps)]
        for number, steps in enumerate(zip(*taken.values(), strict=True), 1)
    ]
    print(table(["step", *(f"reward, {name}" for name in taken)], rows), end="")


def describe(args: Args) -> str:
    """Describe the comparison in a paragraph."""
    packages = ("trl", "torch", "transformers", "accelerate")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{args.prompts} problems x {args.group_size} episodes per step, {args.max_turns} turns, "
        f"{args.max_turn_tokens} tokens per turn, {args.max_response_tokens} per episode, one "
        f"update per step, learning rate {args.learning_rate:g}, float32, {args.threads} threads; "
        f"steps {args.discard + 1} to {args.steps} count. TRL: tools=, generate, "
        f"micro-batches of {args.micro_batch}, DAPO loss, no gradient checkpointing, no KL, no "
        f"logging, no saving. {versions}.\n"
    )


def main(arguments: Sequence[str]) -> None:
    """Run the benchmark and print its tables."""
    args = tyro.cli(Args, args=arguments)
    if find_spec("trl") is None:
        raise SystemExit("TRL is missing: pip install 'trl>=1.16,<2'")
    taken = run(args, {TRL: trl, OFF: saar_off, ON: saar_on})
    print(describe(args))
    print_speed(args, taken)
    print_rewards(taken)


if __name__ == "__main__":
    main(sys.argv[1:])
