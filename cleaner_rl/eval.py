"""Evaluation from the command line: ``python -m cleaner_rl.eval``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from cleaner_env.task_files import first_tasks, load_tasks
from cleaner_rl.arguments import option
from cleaner_rl.config import TrainConfig
from cleaner_rl.errors import UserError, run_command
from cleaner_rl.evaluation import Evaluation, evaluate
from cleaner_rl.policy import load_policy
from cleaner_rl.precision import Precision
from cleaner_rl.progress import CountProgress
from cleaner_rl.rollout import RolloutConfig, SystemPrompt, ToolFormat

_FROM_THE_RUN = (
    *("tasks", "gamma", "max_retries", "similarity_on", "system_prompt", "max_turns"),
    *("tool_format", "max_calls", "strict_calls"),
    *("max_response_tokens", "max_turn_tokens", "temperature", "code_seconds"),
)
"""Settings that the evaluation of a checkpoint takes from its run, unless they are given."""


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """Evaluate a policy on held-out tasks, with rollback off, on, or both side by side."""

    model: str = "bundled"
    """bundled, smollm2, a Hugging Face directory, or a hub name. For a checkpoint of a run, the
    defaults of the settings below are those of the run."""
    tasks: str = "reasoning-gym"
    """reasoning-gym, reasoning-gym:FAMILY,FAMILY, or a .jsonl file with prompt and answer."""
    rollback: Literal["off", "on", "both"] = "off"
    """Whether failed calls are rolled back during the evaluation; off shows the policy itself."""
    gamma: float = 0.5
    """With rollback: similarity from which on a splice keeps the failed turn's reasoning."""
    max_retries: int = 3
    """With rollback: lookaheads at one position."""
    similarity_on: Literal["code", "call"] = "code"
    """With rollback: compare programs or whole call blocks."""
    num_tasks: int = 240
    """Held-out problems."""
    samples: int = 1
    """Episodes for each problem."""
    temperature: float = 1.0
    """Of sampling."""
    top_p: float = 1.0
    """Of sampling."""
    system_prompt: SystemPrompt = "auto"
    """First message of an episode: how to use the tool (default) or nothing (none); auto leaves it
    out for policies that know the tool from their cold start, such as the bundled one."""
    tool_format: ToolFormat = "auto"
    """How the model calls the tool; auto goes by its chat template and warns where that shows no
    known format. See docs/environment.md."""
    max_calls: int = 1
    """Calls of one turn; they run in order, up to the first that fails."""
    strict_calls: bool = True
    """Malformed calls are errors that the model sees; off repairs what can be repaired."""
    max_turns: int = 4
    """Turns of an episode."""
    max_response_tokens: int = 512
    """Tokens of an episode after its prompt."""
    max_turn_tokens: int = 128
    """Tokens of one turn."""
    code_seconds: float = 4.0
    """Wall time of one program."""
    sample_batch: int = 128
    """Episodes that are decoded together."""
    seed: int = 0
    """Of tasks and sampling."""
    dtype: Precision = "float32"
    """Precision of the forward passes."""
    device: str = "auto"
    """auto (CUDA when there is one), cpu, cuda, ..."""
    workers: int = 2
    """Programs that run at the same time."""
    allow_weak: bool = False
    """Run programs without isolation where bubblewrap does not work."""
    out: str = ""
    """Directory for summary.json and episodes.jsonl; empty writes none."""

    def __post_init__(self) -> None:
        for name in ("num_tasks", "samples", "max_turns", "max_calls", "sample_batch", "workers"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1")
        if not self.temperature > 0:
            raise UserError("--temperature must be above 0")
        for name in ("gamma", "top_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name.replace('_', '-')} must lie between 0 and 1")


def evaluate_command(config: EvalConfig) -> dict[str, Evaluation]:
    """The evaluations that a configuration asks for, by ``"off"`` and ``"on"``.

    Raises:
        UserError: the model or the tasks cannot be loaded.
    """
    policy = load_policy(config.model, config.device)
    try:
        source = load_tasks(config.tasks, "test", config.seed)
    except ValueError as error:
        raise UserError(str(error)) from error
    tasks = first_tasks(source, config.num_tasks)
    if len(tasks) < config.num_tasks:
        print(f"{config.tasks} has {len(tasks)} held-out tasks; evaluating on these")
    rollout = RolloutConfig(
        max_turns=config.max_turns,
        max_response_tokens=config.max_response_tokens,
        max_turn_tokens=config.max_turn_tokens,
        system_prompt=config.system_prompt,
        tool_format=config.tool_format,
        max_calls=config.max_calls,
        strict_calls=config.strict_calls,
        gamma=config.gamma,
        max_retries=config.max_retries,
        similarity_on=config.similarity_on,
        code_seconds=config.code_seconds,
        workers=config.workers,
        allow_weak=config.allow_weak,
    )
    total = len(tasks) * config.samples
    modes = ("off", "on") if config.rollback == "both" else (config.rollback,)
    return {
        mode: evaluate(
            policy,
            tasks,
            replace(rollout, rollback=mode == "on"),
            samples=config.samples,
            temperature=config.temperature,
            top_p=config.top_p,
            max_batch=config.sample_batch,
            seed=config.seed,
            dtype=config.dtype,
            on_progress=_progress(f"episodes, rollback {mode}", total),
        )
        for mode in modes
    }


def _progress(label: str, total: int) -> Callable[[int, int], None]:
    """Shows finished episodes on standard error, which leaves standard output to the table."""
    progress = CountProgress(label, total, sys.stderr)
    return lambda done, _: progress.show(done)


def table(results: dict[str, Evaluation]) -> str:
    """The results side by side."""
    lines = [f"{'rollback':<18}" + "".join(f"{mode:>18}" for mode in results)]
    for key in next(iter(results.values())).metrics:
        cells = []
        for result in results.values():
            error = result.errors.get(key)
            cells.append(f"{result.metrics[key]:.3f}" + (f" ± {error:.3f}" if error else ""))
        lines.append(f"{key:<18}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def _prepare_out(config: EvalConfig) -> Path | None:
    """The output directory, made before any work is done."""
    if not config.out:
        return None
    out = Path(config.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error}; choose another --out") from error
    if any(out.iterdir()):
        raise UserError(f"{out} is not empty; choose another --out")
    return out


def parse_arguments(arguments: Sequence[str]) -> EvalConfig:
    """The configuration behind command-line arguments.

    A checkpoint of a run is evaluated with the budgets that it was trained with.
    """
    model = option(arguments, "--model")
    run = Path(model).resolve().parent.parent / "config.json" if model else None
    default = EvalConfig()
    if run is not None and Path(str(model)).resolve().parent.name == "checkpoints" and run.exists():
        trained = TrainConfig.load(run)
        default = replace(default, **{name: getattr(trained, name) for name in _FROM_THE_RUN})
    return tyro.cli(EvalConfig, args=arguments, default=default, prog="python -m cleaner_rl.eval")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the evaluation reached its end."""
    config = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    out = _prepare_out(config)
    results = evaluate_command(config)
    print(
        f"{config.model} on {config.tasks}: at most {config.max_turns} turns, "
        f"{config.max_response_tokens} tokens, {config.max_turn_tokens} a turn"
    )
    print(table(results))
    if out is not None:
        summary = {mode: result.summary() for mode, result in results.items()}
        data = {"config": asdict(config), "results": summary}
        (out / "summary.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        with (out / "episodes.jsonl").open("w", encoding="utf-8") as stream:
            for mode, result in results.items():
                for episode in result.episodes:
                    row = {"mode": mode, **episode.to_dict()}
                    stream.write(json.dumps(row) + "\n")
        print(f"written to {out}")
    return 0


if __name__ == "__main__":
    run_command(main)
