"""Doctor: ``python -m cleaner_rl.doctor`` says what would go wrong in a training."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import tyro
from rich.console import Console
from rich.text import Text

from cleaner_rl.config import PRESETS, TrainConfig, choose, given
from cleaner_rl.doctor.machine import check_attention, check_memory, check_model, check_sandbox
from cleaner_rl.doctor.subject import Check, Finding, Subject, run_checks
from cleaner_rl.doctor.tasks import check_grader, check_prompts, check_tasks
from cleaner_rl.doctor.text import (
    check_format,
    check_round_trip,
    check_template,
    check_trained_tokens,
)
from cleaner_rl.errors import run_command
from cleaner_rl.runs.provenance import made_with
from cleaner_rl.settings import Count, Positive, Precision, SystemPrompt, change, check_bounds, flat

CHECKS: dict[str, Check[Subject]] = {
    "model": check_model,
    "chat template": check_template,
    "round trip": check_round_trip,
    "tool format": check_format,
    "trained tokens": check_trained_tokens,
    "sandbox": check_sandbox,
    "tasks": check_tasks,
    "grader": check_grader,
    "prompt lengths": check_prompts,
    "memory": check_memory,
    "attention": check_attention,
}
"""What is looked at, in this order."""

_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}
_KINDS = {"sampled": "green", "environment": "bright_black", "grafted": "magenta"}


@dataclass(frozen=True, slots=True)
class DoctorConfig:
    """Look at a model, tasks and this machine before a training, and say what would go wrong.

    Exit status: 0 no check failed (there may be warnings), 1 one did, 2 wrong arguments.
    """

    model: str = "bundled"
    """bundled, smollm2, a Hugging Face directory, or a hub name."""
    tasks: str = "reasoning-gym"
    """Problems, as in training."""
    preset: str = "tiny"
    """Where the limits below come from: a preset of training."""
    num_tasks: Count = 64
    """Problems to look at."""
    weights: bool = True
    """Load the weights; without, tokenizer and configuration are looked at alone."""
    system_prompt: SystemPrompt = "auto"
    """As in training."""
    max_prompt_tokens: int = 256
    """As in training."""
    max_response_tokens: int = 512
    """As in training."""
    pack_tokens: int = 8192
    """As in training."""
    sample_batch: int = 128
    """As in training."""
    dtype: Precision = "float32"
    """As in training."""
    device: str = "auto"
    """As in training."""
    code_seconds: float = 1.0
    """As in training."""
    allow_weak: bool = False
    """As in training."""
    grader_seconds: Positive = 10.0
    """Longest time that grading one answer may take."""
    seed: int = 0
    """Of the problems."""
    json: bool = False
    """Print one JSON object and nothing else."""

    def __post_init__(self) -> None:
        check_bounds(self)

    def training(self) -> TrainConfig:
        """The training that is looked forward to."""
        settings = {name: getattr(self, name) for name in _OF_TRAINING}
        return change(choose(PRESETS, self.preset), **settings)


_OF_TRAINING = (
    *("model", "tasks", "system_prompt", "max_prompt_tokens", "max_response_tokens"),
    *("pack_tokens", "sample_batch", "dtype", "device", "code_seconds", "allow_weak", "seed"),
)
_OF_PRESET = tuple(name for name in _OF_TRAINING if name not in ("tasks", "seed", "allow_weak"))


def parse_arguments(arguments: Sequence[str]) -> DoctorConfig:
    """The configuration behind command-line arguments; the preset gives the limits."""
    name = given(arguments, "preset").get("preset", "tiny")
    limits = flat(choose(PRESETS, name))
    default = DoctorConfig(preset=name, **{key: limits[key] for key in _OF_PRESET})
    return tyro.cli(
        DoctorConfig, args=arguments, default=default, prog="python -m cleaner_rl.doctor"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when no check failed, else 1."""
    config = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    subject = Subject(config.training(), config.num_tasks, config.weights, config.grader_seconds)
    findings = run_checks(CHECKS, subject)
    if config.json:
        print(json.dumps(report(config, findings), indent=2))
    else:
        show(config, findings, Console())
    return int(any(finding.status == "failed" for finding in findings.values()))


def report(config: DoctorConfig, findings: Mapping[str, Finding]) -> dict[str, Any]:
    """Everything as plain data for JSON."""
    return {
        "ok": all(finding.status != "failed" for finding in findings.values()),
        "config": asdict(config),
        "made_with": made_with(),
        "checks": [{"name": name, **asdict(finding)} for name, finding in findings.items()],
    }


def show(config: DoctorConfig, findings: Mapping[str, Finding], console: Console) -> None:
    """The findings for people, and the scripted episode in colour."""
    width = max(map(len, findings))
    for name, finding in findings.items():
        line = Text(f"{finding.status:<7}  ", style=_STYLES[finding.status])
        line.append(f"{name:<{width}}  ", style="bold")
        line.append(finding.text, style="default not bold")
        console.print(line, soft_wrap=True)
        if finding.remedy:
            console.print(Text(f"{'':<9}{'':<{width}}  -> {finding.remedy}"), soft_wrap=True)
    segments = findings["trained tokens"].details.get("segments", [])
    if segments:
        show_segments(segments, console)
    counts = {
        status: sum(finding.status == status for finding in findings.values()) for status in _STYLES
    }
    console.print(
        f"\n{config.model} on {config.tasks}, preset {config.preset}: {counts['ok']} ok, "
        f"{counts['warning']} warnings, {counts['failed']} failed",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def show_segments(segments: Sequence[Mapping[str, Any]], console: Console) -> None:
    """The scripted episode, each run of tokens with where it came from."""
    legend = Text("\nTokens of a scripted episode with one splice: ")
    legend.append("sampled", style=_KINDS["sampled"])
    legend.append(" and ")
    legend.append("grafted", style=_KINDS["grafted"])
    legend.append(" are trained, ")
    legend.append("environment", style=_KINDS["environment"])
    legend.append(" never\n")
    console.print(legend, soft_wrap=True)
    for segment in segments:
        note = (
            segment["kind"]
            if segment["trained"] or segment["kind"] == "environment"
            else (f"{segment['kind']} (left out)")
        )
        style = _KINDS[segment["kind"]]
        for number, line in enumerate(segment["text"].splitlines(keepends=True)):
            head = f"{note:<12} {segment['tokens']:>5} " if number == 0 else " " * 19
            text = Text(f"{head}| ", style="default")
            text.append(line.replace("\n", "⏎"), style=style)
            console.print(text, soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
