"""ComparisonPlots: the curves of a comparison, in one colour per arm, with ranges over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cleaner_rl.runs.metrics import LABELS
from cleaner_rl.runs.report import smooth

matplotlib.use("Agg")

HELD_OUT, TRAINING, TOKENS = "held-out.png", "training.png", "tokens.png"

_HELD_OUT = (
    *(("off", "accuracy"), ("on", "accuracy"), ("off", "failed_calls")),
    *(("off", "first_attempt_success"), ("off", "tokens_sampled"), ("off", "turns")),
)
_TRAINING = (
    *("reward", "failed_calls", "entropy", "shallow", "deep"),
    *("grafted_gap", "tokens_sampled", "turns", "grad_norm"),
)
_STYLES = ("-", "--", "-.", ":")

Curve = tuple[Sequence[float], Sequence[float], Sequence[Sequence[float]]]
"""The x of an arm's points, their values, and for each point the values of the seeds, or just the
extremes."""
Data = Mapping[str, Any]


def write_plots(results: Data, directory: Path) -> None:
    held_out = {
        f"{LABELS[key][0]}, rollback {mode}": _evaluated(results, mode, key)
        for mode, key in _HELD_OUT
    }
    _draw(held_out, (2, 3), "step", "o").savefig(directory / HELD_OUT, dpi=110)
    training = {LABELS[key][0]: _trained(results, key) for key in _TRAINING}
    _draw(training, (3, 3), "step").savefig(directory / TRAINING, dpi=110)
    title = "held-out accuracy, rollback off; dotted: the baseline's final accuracy"
    label = "million sampled tokens, including those discarded by rollback"
    figure = _draw({title: _by_tokens(results)}, (1, 1), label, "o")
    figure.axes[0].axhline(results["reaching"]["target"], color="grey", lw=0.8, ls=":")
    figure.savefig(directory / TOKENS, dpi=110)


def _evaluated(results: Data, mode: str, key: str) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for arm, modes in results["held_out"].items():
        points = {int(step): of_step[key] for step, of_step in modes[mode].items()}
        known = {step: p for step, p in points.items() if p["value"] is not None}
        seeds = [[v for v in p["by_seed"] if v is not None] for p in known.values()]
        curves[arm] = list(known), [p["value"] for p in known.values()], seeds
    return curves


def _trained(results: Data, key: str) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for arm, training in results["training"].items():
        if key in training["metrics"]:
            curve = training["metrics"][key]
            mean, *extremes = (smooth(curve[name]) for name in ("mean", "lowest", "highest"))
            curves[arm] = range(1, len(mean) + 1), mean, list(zip(*extremes, strict=True))
    return curves


def _by_tokens(results: Data) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for arm, training in results["training"].items():
        tokens = [training["tokens"][step] / 1e6 for step in results["evaluated_steps"]]
        values = [of["accuracy"]["value"] for of in results["held_out"][arm]["off"].values()]
        curves[arm] = tokens, values, [[value] for value in values]
    return curves


def _draw(
    panels: Mapping[str, Mapping[str, Curve]], shape: tuple[int, int], label: str, marker: str = ""
) -> Figure:
    """Draw panels in a grid; the first must have a curve of every arm."""
    arms = list(next(iter(panels.values())))
    rows, columns = shape
    figure = Figure(figsize=(max(7.0, 4.0 * columns), 1.0 + 3.0 * rows), layout="constrained")
    grid = np.ravel(figure.subplots(rows, columns))
    for axes, (title, curves) in zip(grid, panels.items(), strict=True):
        for arm, (x, values, ranges) in curves.items():
            i = arms.index(arm)
            color, style = f"C{i % 10}", _STYLES[i // 10 % len(_STYLES)]
            axes.plot(x, values, marker=marker, ms=3, color=color, ls=style, label=arm)
            lowest, highest = list(map(min, ranges)), list(map(max, ranges))
            axes.fill_between(x, lowest, highest, color=color, alpha=0.15)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6)
    return figure
