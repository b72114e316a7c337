"""ComparisonPlots: the curves of a comparison, a colour for each arm, with the range over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

matplotlib.use("Agg")

HELD_OUT, TRAINING, TOKENS = "held-out.png", "training.png", "tokens.png"

_HELD_OUT = (
    ("off", "accuracy", "accuracy, rollback off"),
    ("on", "accuracy", "accuracy, rollback on"),
    ("off", "failed_calls", "failed calls per episode, rollback off"),
    ("off", "first_attempt_success", "first attempts that work, rollback off"),
    ("off", "tokens_sampled", "sampled tokens per episode, rollback off"),
    ("off", "turns", "turns per episode, rollback off"),
)
_TRAINING = (
    ("reward", "reward"),
    ("failed_calls", "failed calls per episode"),
    ("entropy", "entropy (nats per token)"),
    ("shallow", "shallow splices per episode"),
    ("deep", "deep splices per episode"),
    ("grafted_gap", "log-prob gap of grafted tokens (nats)"),
    ("tokens_sampled", "sampled tokens per episode"),
    ("turns", "turns per episode"),
    ("grad_norm", "norm of the gradient"),
)
_SMOOTHING = 5
"""Training steps that a point of a curve is the mean of."""
_STYLES = ("-", "--", "-.", ":")


def write_plots(results: Mapping[str, Any], directory: Path) -> None:
    """Write the three pictures."""
    _held_out(results, directory / HELD_OUT)
    _training(results, directory / TRAINING)
    _tokens(results, directory / TOKENS)


def _held_out(results: Mapping[str, Any], path: Path) -> None:
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    for axes, (mode, key, label) in zip(figure.subplots(2, 3).flat, _HELD_OUT, strict=True):
        for name, style in _styles(results):
            points = [of_step[key] for of_step in results["held_out"][name][mode].values()]
            kept = [
                (step, point)
                for step, point in zip(results["evaluated_steps"], points, strict=True)
                if point["value"] is not None
            ]
            steps = [step for step, _ in kept]
            axes.plot(steps, [p["value"] for _, p in kept], marker="o", ms=3, **style)
            ranges = [[v for v in p["by_seed"] if v is not None] for _, p in kept]
            axes.fill_between(
                steps,
                list(map(min, ranges)),
                list(map(max, ranges)),
                color=style["color"],
                alpha=0.15,
            )
        _finish(axes, label, "step")
    _save(figure, path)


def _training(results: Mapping[str, Any], path: Path) -> None:
    figure = Figure(figsize=(12, 9.5), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(3, 3).flat, _TRAINING, strict=True):
        for name, style in _styles(results):
            curve = results["training"][name]["metrics"].get(key)
            if curve is None:
                continue
            steps = range(1, len(curve["mean"]) + 1)
            axes.plot(steps, _smooth(curve["mean"]), **style)
            low, high = _smooth(curve["lowest"]), _smooth(curve["highest"])
            axes.fill_between(steps, low, high, color=style["color"], alpha=0.15)
        _finish(axes, label, "step")
    _save(figure, path)


def _tokens(results: Mapping[str, Any], path: Path) -> None:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    steps = results["evaluated_steps"]
    for name, style in _styles(results):
        tokens = [results["training"][name]["tokens"][step] / 1e6 for step in steps]
        points = [of["accuracy"]["value"] for of in results["held_out"][name]["off"].values()]
        axes.plot(tokens, points, marker="o", ms=3, **style)
    axes.axhline(results["reaching"]["target"], color="grey", lw=0.8, ls=":")
    title = "held-out accuracy, rollback off; dotted: the baseline's final accuracy"
    _finish(axes, title, "million sampled tokens, those thrown away by rollback included")
    _save(figure, path)


def _styles(results: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (name, {"color": f"C{i % 10}", "ls": _STYLES[i // 10 % len(_STYLES)], "label": name})
        for i, name in enumerate(results["arms"])
    ]


def _finish(axes: Any, title: str, xlabel: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(xlabel)
    axes.grid(alpha=0.3)


def _save(figure: Figure, path: Path) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6)
    figure.savefig(path, dpi=110)


def _smooth(values: Sequence[float]) -> list[float]:
    """The mean of each value and those before it."""
    windows = [values[max(0, i + 1 - _SMOOTHING) : i + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
