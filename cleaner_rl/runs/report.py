"""Report: the results of a run as a Markdown page with curves, from the run's own files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from shlex import quote
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cleaner_env.episode import RollbackRecord
from cleaner_env.episode_io import episode_from_dict
from cleaner_env.transcripts import printable
from cleaner_rl.config import TrainConfig, train_command
from cleaner_rl.models.policy import resolve_device
from cleaner_rl.runs.evaluations import evaluated_steps, summary_path
from cleaner_rl.runs.files import read_json, read_rows, write_whole
from cleaner_rl.runs.markdown import table
from cleaner_rl.runs.metrics import LABELS
from cleaner_rl.runs.provenance import made_with
from cleaner_rl.runs.run_directory import read_metrics
from cleaner_rl.settings import CREDIT_RULES

matplotlib.use("Agg")

_CURVES = (
    *("reward", "failed_calls", "first_call_failed"),
    *("entropy", "triggered", "tokens_sampled"),
)
_SMOOTHING = 5
"""A point of a curve is the mean of this many steps."""
_SHOWN = 2
"""Rollbacks that are shown as text."""
_ROWS = (
    *("accuracy", "failed_calls", "first_call_failed", "recovery"),
    *("calls", "answered", "tokens_sampled"),
)


def write_report(directory: Path, config: TrainConfig) -> Path:
    """Write ``report.md`` and its curves into a run directory, from the files there."""
    metrics = read_metrics(directory)
    parts = [f"# Run {directory.name}\n", _summary(metrics, config)]
    before, after = (read_json(directory / f"evaluation-{w}.json") for w in ("before", "after"))
    if before is not None and after is not None:
        parts += ["## Held-out tasks, rollback off\n", _evaluation_table(before, after)]
        parts += ["## By family\n", _family_table(before, after)]
    if metrics:
        _plot(metrics, held_out(directory), directory / "curves.png")
        parts += ["## Training\n", "![curves](curves.png)\n", _rollback_line(metrics)]
        parts += [f"### {head}\n\n{text}\n" for head, text in islice(_rollbacks(directory), _SHOWN)]
        parts += [f"All episodes that were logged, on one page:\n\n```\n{_view(directory)}\n```\n"]
    versions = "; ".join(f"{name} {version}" for name, version in made_with().items())
    parts += [f"## Made with\n\n{versions}; device {resolve_device(config.device)}.\n"]
    parts += [f"```\n{train_command(config)}\n```\n"]
    path = directory / "report.md"
    write_whole(path, "\n".join(parts))
    return path


def _summary(metrics: list[dict[str, Any]], config: TrainConfig) -> str:
    seconds = sum(m["step_seconds"] for m in metrics)
    rules = config.episode
    saar = {
        "off": "off (plain GRPO baseline)",
        "mask-failed": f"mask-failed, with probability {rules.rollback_probability}",
        "roc": f"roc, {config.oversample} episodes played for each one kept",
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
        f"- credit rule: `{config.credit}`: {CREDIT_RULES[config.credit]}\n"
    )


def _evaluation_table(before: dict[str, Any], after: dict[str, Any]) -> str:
    def cell(evaluation: dict[str, Any], name: str) -> str:
        form = LABELS[name][1]
        value = form.format(evaluation["metrics"][name])
        error = evaluation["standard_errors"].get(name)
        return value if error is None else f"{value} ± {form.format(error)}"

    heads = (f"{before['tasks']} tasks x {before['samples']}", "before", "after")
    rows = [(LABELS[name][0], cell(before, name), cell(after, name)) for name in _ROWS]
    return f"{table(heads, rows)}\n± is one standard error over tasks.\n"


def _family_table(before: dict[str, Any], after: dict[str, Any]) -> str:
    heads = ("family", "accuracy before", "after", "failed calls before", "after")
    rows = []
    for family, old in before["families"].items():
        both = (old, after["families"].get(family, old))
        accuracy = (f"{of['accuracy']:.0%}" for of in both)
        rows.append((family, *accuracy, *(f"{of['failed_calls']:.2f}" for of in both)))
    return table(heads, rows)


def _rollback_line(metrics: list[dict[str, Any]]) -> str:
    sampled = sum(m["tokens_sampled"] for m in metrics)
    discarded = sum(m["tokens_discarded"] for m in metrics)
    splices = sum(m["shallow"] + m["deep"] for m in metrics)
    shallow = sum(m["shallow"] for m in metrics) / splices if splices else 0.0
    return (
        f"Rollback discarded {discarded / max(1.0, sampled):.1%} of the sampled tokens; "
        f"{shallow:.0%} of the splices were shallow.\n"
    )


def _rollbacks(directory: Path) -> Iterator[tuple[str, str]]:
    """Logged rollbacks, the latest steps first, one an episode: a headline, and what happened."""
    for file in sorted((directory / "episodes").glob("step-*.jsonl"), reverse=True):
        for row in read_rows(file):
            splices = [r for r in episode_from_dict(row).rollbacks if r.purified is not None]
            if splices:
                step = int(file.stem.removeprefix("step-"))
                yield f"A rollback of step {step}: {splices[0].error_class}", _shown(splices[0])


def _shown(record: RollbackRecord) -> str:
    """The failed call with its error, the answer to it, and what became of the two."""
    assert record.purified is not None
    blocks = [
        ("The model called", record.failed.code or record.failed.text),
        ("and Python answered", record.failed.observation or ""),
        ("Shown the error, it wrote", record.answer.code or record.answer.text),
    ]
    lines = [
        "\n".join([f"{name}\n", *(f"    {printable(line)}" for line in text.split("\n")), ""])
        for name, text in blocks
    ]
    kept = "this call took the place of the first one; the reasoning before it stayed"
    if record.decision == "deep":
        kept = "this turn took the place of the whole first one"
    ended = "It worked." if record.outcome == "recovered" else "It failed as well."
    lines.append(f"Similarity {record.similarity:.2f}, {record.decision}: {kept}. {ended}")
    return "\n".join(lines)


def _view(directory: Path) -> str:
    return f"python -m cleaner_rl.view {quote(str(directory))} --open"


def held_out(directory: Path) -> list[tuple[int, dict[str, float]]]:
    """The evaluated steps of a run in order, with their figures, rollback off."""
    found = {}
    for step in evaluated_steps(directory):
        found[step] = read_json(summary_path(directory, step))["off"]["metrics"]
    for when in ("before", "after"):
        if (summary := read_json(directory / f"evaluation-{when}.json")) is not None:
            found[summary["step"]] = summary["metrics"]
    return sorted(found.items())


def _plot(
    metrics: list[dict[str, Any]], evaluations: list[tuple[int, dict[str, float]]], path: Path
) -> None:
    figure = Figure(figsize=(11, 6))
    # Margins are set by hand because matplotlib's own layouts draw everything twice.
    figure.subplots_adjust(0.05, 0.09, 0.99, 0.95, wspace=0.17, hspace=0.36)
    steps = [m["step"] for m in metrics]
    for axes, name in zip(figure.subplots(2, 3).flat, _CURVES, strict=True):
        values = [m[name] for m in metrics]
        axes.plot(steps, values, color="tab:blue", alpha=0.3, label="training, each step")
        smoothed = f"training, mean of {_SMOOTHING} steps"
        axes.plot(steps, smooth(values), color="tab:blue", label=smoothed)
        points = [(step, of[name]) for step, of in evaluations if name in of]
        if points and name != "triggered":  # nothing is rolled back there
            label = "held-out problems, rollback off"
            axes.plot(*zip(*points, strict=True), "s--", color="tab:orange", label=label)
        axes.set_title(LABELS[name][0], fontsize=10)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def smooth(values: Sequence[float]) -> list[float]:
    """Replace each value by its mean with the ``_SMOOTHING - 1`` values before it."""
    return [fmean(values[max(0, end - _SMOOTHING) : end]) for end in range(1, len(values) + 1)]
