"""Report: what came out of a run, as a page of Markdown and curves, from the run's own files."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from cleaner_rl.config import TrainConfig
from cleaner_rl.models.policy import resolve_device
from cleaner_rl.runs.files import read_json
from cleaner_rl.runs.provenance import package_version
from cleaner_rl.runs.run_directory import read_metrics
from cleaner_rl.settings import CreditRule

matplotlib.use("Agg")

_CURVES = (
    ("reward", "reward"),
    ("failed_calls", "failed calls per episode"),
    ("first_call_failed", "share of first calls that fail"),
    ("entropy", "entropy (nats per token)"),
    ("triggered", "rollbacks per episode"),
    ("tokens_sampled", "sampled tokens per episode"),
)

_ROWS = (
    ("accuracy", "accuracy", "{:.1%}"),
    ("failed_calls", "failed calls per episode", "{:.2f}"),
    ("first_call_failed", "episodes whose first call fails", "{:.1%}"),
    ("recovery", "failed calls corrected by the next call", "{:.1%}"),
    ("calls", "calls per episode", "{:.2f}"),
    ("answered", "episodes that end with an answer", "{:.1%}"),
    ("tokens_sampled", "tokens per episode", "{:.0f}"),
)

_CREDIT: dict[CreditRule, str] = {
    "purified": "the purified trajectory takes the advantage (CLEANER as published)",
    "positive": "grafted tokens take only positive advantages",
    "contrastive": "negative advantages go to the failed calls that were really sampled",
    "branched": "calls that splices took away join their group as failures",
}


def write_report(directory: Path, config: TrainConfig) -> Path:
    """Write ``report.md`` and its curves into a run directory, from the files there.

    Returns:
        The report's path.
    """
    metrics = read_metrics(directory)
    parts = [f"# Run {directory.name}\n", _summary(metrics, config)]
    before, after = (read_json(directory / f"evaluation-{w}.json") for w in ("before", "after"))
    if before is not None and after is not None:
        parts += ["## Held-out tasks, rollback off\n", _evaluation_table(before, after)]
        parts += ["## By family\n", _family_table(before, after)]
    if metrics:
        _plot(metrics, directory / "curves.png")
        parts += ["## Training\n", "![curves](curves.png)\n", _rollback_line(metrics)]
    parts += ["## Made with\n", _environment(config)]
    path = directory / "report.md"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _summary(metrics: list[dict[str, Any]], config: TrainConfig) -> str:
    seconds = sum(m["step_seconds"] for m in metrics)
    rules = config.episode
    saar = {
        "off": "off (plain GRPO baseline)",
        "mask-failed": f"mask-failed, with probability {rules.rollback_probability}",
        "roc": f"roc, {config.oversample} episodes played for each that is kept",
    }.get(
        rules.saar,
        f"{rules.saar}, gamma {rules.gamma}, {rules.max_retries} retries, "
        f"rollback probability {rules.rollback_probability}",
    )
    return (
        f"- policy: {config.model}; tasks: {config.tasks}; seed {config.seed}\n"
        f"- {len(metrics)} steps of {config.prompts} problems x {config.group_size} episodes: "
        f"{seconds:.0f} s in all\n"
        f"- SAAR: {saar}\n"
        f"- credit rule: `{config.credit}`: {_CREDIT[config.credit]}\n"
    )


def _evaluation_table(before: dict[str, Any], after: dict[str, Any]) -> str:
    head = f"| {before['tasks']} tasks x {before['samples']} | before | after |\n|---|---|---|\n"
    rows = ""
    for key, label, form in _ROWS:
        cells = []
        for evaluation in (before, after):
            cell = form.format(evaluation["metrics"][key])
            if key in evaluation["standard_errors"]:
                cell += f" ± {form.format(evaluation['standard_errors'][key])}"
            cells.append(cell)
        rows += f"| {label} | {cells[0]} | {cells[1]} |\n"
    return f"{head}{rows}\n± is one standard error over tasks.\n"


def _family_table(before: dict[str, Any], after: dict[str, Any]) -> str:
    text = "| family | accuracy before | after | failed calls before | after |\n"
    text += "|---|---|---|---|---|\n"
    for family, old in before["families"].items():
        new = after["families"].get(family, old)
        text += (
            f"| {family} | {old['accuracy']:.0%} | {new['accuracy']:.0%} | "
            f"{old['failed_calls']:.2f} | {new['failed_calls']:.2f} |\n"
        )
    return text


def _rollback_line(metrics: list[dict[str, Any]]) -> str:
    sampled = sum(m["tokens_sampled"] for m in metrics)
    discarded = sum(m["tokens_discarded"] for m in metrics)
    splices = sum(m["shallow"] + m["deep"] for m in metrics)
    shallow = sum(m["shallow"] for m in metrics) / splices if splices else 0.0
    return (
        f"Rollback threw away {discarded / max(1.0, sampled):.1%} of the sampled tokens; "
        f"{shallow:.0%} of the splices were shallow.\n"
    )


def _environment(config: TrainConfig) -> str:
    packages = ("torch", "transformers", "gymnasium", "reasoning-gym", "cleaner-rl")
    versions = ", ".join(f"{name} {package_version(name)}" for name in packages)
    machine = (
        f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}"
    )
    return (
        f"{machine}; {versions}; device {resolve_device(config.device)}.\n\n"
        f"`python -m cleaner_rl.train --preset {config.preset}` with the settings in "
        "`config.json`.\n"
    )


def _plot(metrics: list[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(11, 6))
    # Set by hand: matplotlib's own layouts draw everything twice.
    figure.subplots_adjust(0.05, 0.09, 0.99, 0.95, wspace=0.17, hspace=0.36)
    steps = [m["step"] for m in metrics]
    for axes, (key, label) in zip(figure.subplots(2, 3).flat, _CURVES, strict=True):
        values = [m[key] for m in metrics]
        axes.plot(steps, values, color="tab:blue", alpha=0.3)
        axes.plot(steps, _smooth(values), color="tab:blue")
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _smooth(values: list[float], weight: float = 0.8) -> list[float]:
    """Exponential moving average without a bias towards the start."""
    average, total, smoothed = 0.0, 0.0, []
    for value in values:
        average = weight * average + (1 - weight) * value
        total = weight * total + (1 - weight)
        smoothed.append(average / total)
    return smoothed
