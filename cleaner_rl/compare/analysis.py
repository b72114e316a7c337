"""Analysis: the results of a comparison, computed from the files of its runs.

Axes of arrays: ``_S`` seeds, ``_E`` evaluations, ``_K`` training steps from 0, ``_R`` resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np

from cleaner_rl.compare.arms import ARMS, BASELINE
from cleaner_rl.compare.directory import PlannedRun
from cleaner_rl.eval.evaluate import by_problem, measure
from cleaner_rl.eval.statistics import CrossedBootstrap, Floats, Measure, seeds_interval
from cleaner_rl.runs.evaluations import MODES, evaluated_steps, read_evaluation
from cleaner_rl.runs.metrics import LABELS, METRICS, EpisodeSummary
from cleaner_rl.runs.run_directory import read_metrics, wall_seconds

_HELD_OUT = [name for name in METRICS if name not in ("answer_found", "truncated", "seconds")]
"""Metrics of held-out episodes that are compared."""
_LAST = 0.25
"""Training figures are means over this share of the steps, at the end."""

Measures = Mapping[str, Measure]
"""Measures by metric, with a row for each seed."""
Evaluations = Mapping[tuple[str, int], Measures]
"""The measures of an arm's runs, by mode and step."""
Logs = Sequence[Sequence[Mapping[str, float]]]
"""Metrics of the training steps of each seed."""


def compare(runs: Mapping[str, Sequence[PlannedRun]]) -> dict[str, Any]:
    """The results of the finished runs of all arms, as docs/compare.md explains them. Each arm has
    the same seeds in the same order."""
    baseline = BASELINE if BASELINE in runs else next(iter(runs))
    steps = evaluated_steps(runs[baseline][0].path)  # all runs have the same settings
    evaluations = {
        name: {(mode, step): _measures(of_arm, step, mode) for mode in MODES for step in steps}
        for name, of_arm in runs.items()
    }
    logs = {name: [read_metrics(run.path) for run in of_arm] for name, of_arm in runs.items()}
    # Up to the last problem that any run has an unspoilt episode of.
    tasks = max(m["accuracy"].total_SP.shape[1] for of in evaluations.values() for m in of.values())
    config = runs[baseline][0].config
    bootstrap = CrossedBootstrap(len(runs[baseline]), tasks, config.seed)
    estimates, differences = partial(_estimates, bootstrap), partial(_differences, bootstrap)
    return {
        "baseline": baseline,
        "seeds": [run.seed for run in runs[baseline]],
        "tasks": tasks,
        "samples": config.monitor.eval_samples,
        "steps": config.steps,
        "evaluated_steps": steps,
        "arms": {
            name: {"text": ARMS[name].text, "changes": dict(ARMS[name].changes)} for name in runs
        },
        "held_out": {name: _figures(estimates, steps, of) for name, of in evaluations.items()},
        "differences": {
            name: _figures(differences, steps, evaluations[baseline], of)
            for name, of in evaluations.items()
            if name != baseline
        },
        "reaching": _reaching(evaluations, logs, baseline, bootstrap),
        "training": {name: _training(of_arm) for name, of_arm in logs.items()},
        "seconds": {name: [wall_seconds(r.path) for r in of_arm] for name, of_arm in runs.items()},
    }


def _measures(runs: Sequence[PlannedRun], step: int, mode: str) -> Measures:
    seeds = [
        [EpisodeSummary.read(row) for row in read_evaluation(run.path, step, mode)] for run in runs
    ]
    problems = range(1 + max((e.problem for of_seed in seeds for e in of_seed), default=0))
    grouped = [by_problem(of_seed, problems) for of_seed in seeds]
    return {name: measure(METRICS[name], grouped) for name in _HELD_OUT}


def _figures(of: Callable[..., Any], steps: Sequence[int], *arms: Evaluations) -> dict[str, Any]:
    """mode -> step (a string, as in JSON) -> ``of`` the arms' measures there."""
    return {
        mode: {str(step): of(*(arm[mode, step] for arm in arms)) for step in steps}
        for mode in MODES
    }


def _estimates(bootstrap: CrossedBootstrap, measures: Measures) -> dict[str, Any]:
    intervals = bootstrap.intervals(measures)
    return {
        name: {"value": m.value, "interval_95": intervals.get(name), "by_seed": m.by_seed}
        for name, m in measures.items()
    }


def _differences(
    bootstrap: CrossedBootstrap, baseline: Measures, measures: Measures
) -> dict[str, Any]:
    intervals = bootstrap.differences(baseline, measures)
    found = {}
    for name, ours in measures.items():
        theirs = baseline[name]
        if ours.value is not None and theirs.value is not None:
            pairs = zip(ours.by_seed, theirs.by_seed, strict=True)
            by_seed = [a - b for a, b in pairs if a is not None and b is not None]
            whole = len(by_seed) == len(ours.by_seed)
            found[name] = {
                "value": ours.value - theirs.value,
                "interval_95": intervals.get(name),
                "by_seed": by_seed if whole else None,
                "seeds_interval_95": seeds_interval(by_seed) if whole else None,
            }
    return found


def _reaching(
    evaluations: Mapping[str, Evaluations],
    logs: Mapping[str, Logs],
    baseline: str,
    bootstrap: CrossedBootstrap,
) -> dict[str, Any]:
    """When each arm reached the baseline's final accuracy; see ``DEFINITION``.

    Row 0 of all arrays is the estimate itself, the other rows are the resamples.
    """
    curves = {name: isotonic(_accuracy_RE(of, bootstrap)) for name, of in evaluations.items()}
    target_R = curves[baseline][:, -1]
    steps = [step for mode, step in evaluations[baseline] if mode == "off"]
    reached = {name: first_reached(steps, fit_RE, target_R) for name, fit_RE in curves.items()}
    tokens = {name: _tokens_at(logs[name], reached[name], bootstrap) for name in reached}
    arms = {}
    for name, steps_R in reached.items():
        figures = {
            "steps": steps_R,
            "steps_ratio": _over(steps_R, reached[baseline]),
            "tokens_ratio": _over(tokens[name], tokens[baseline]),
        }
        arms[name] = {
            "tokens": _number(tokens[name][0]),
            "reached_in_resamples": float(np.isfinite(steps_R[1:]).mean()),
            **{key: _number(values_R[0]) for key, values_R in figures.items()},
            **{f"{key}_interval_95": _quantiles(v_R[1:]) for key, v_R in figures.items()},
        }
    return {"target": float(target_R[0]), "arms": arms}


def _accuracy_RE(evaluations: Evaluations, bootstrap: CrossedBootstrap) -> Floats:
    off = [measures["accuracy"] for (mode, _), measures in evaluations.items() if mode == "off"]
    columns = [np.concatenate([[of.value], bootstrap.values({"": of})[""]]) for of in off]
    return np.stack(columns, axis=1)


def _tokens_SK(logs: Logs) -> Floats:
    """Tokens sampled up to each training step, from step 0 on."""
    sampled = [[row["tokens_sampled"] * row["episodes"] for row in rows] for rows in logs]
    return np.concatenate([np.zeros((len(sampled), 1)), np.cumsum(sampled, axis=1)], axis=1)


def _tokens_at(logs: Logs, steps_R: Floats, bootstrap: CrossedBootstrap) -> Floats:
    """[R] tokens sampled up to these steps, averaged over seeds; inf where the step is."""
    tokens_SK = _tokens_SK(logs)
    means_RK = np.vstack([tokens_SK.mean(axis=0), bootstrap.seed_means(tokens_SK)])
    steps_K = np.arange(tokens_SK.shape[1])
    means = [np.interp(k, steps_K, means_K) for k, means_K in zip(steps_R, means_RK, strict=True)]
    tokens_R: Floats = np.where(np.isfinite(steps_R), means, np.inf)
    return tokens_R


def _over(values_R: Floats, baseline_R: Floats) -> Floats:
    """Ratios; NaN where the baseline was at its target from the start."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios: Floats = np.where(baseline_R > 0, values_R / baseline_R, np.nan)
    return ratios


def _quantiles(values_R: Floats) -> list[float | None] | None:
    """Both ends of the 95% interval; None for an end that is infinite."""
    known = np.sort(values_R[~np.isnan(values_R)])
    if not len(known):
        return None
    low, high = (known[round(q * (len(known) - 1))] for q in (0.025, 0.975))
    return [_number(low), _number(high)]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _training(logs: Logs) -> dict[str, Any]:
    """Each metric's mean and range over seeds at every step, and its means over the last steps."""
    last = max(1, round(_LAST * len(logs[0])))
    curves = {}
    for name in [name for name in LABELS if all(name in rows[0] for rows in logs)]:
        values_SK = np.array([[row[name] for row in rows] for rows in logs], float)
        curves[name] = {
            "mean": values_SK.mean(axis=0).tolist(),
            "lowest": values_SK.min(axis=0).tolist(),
            "highest": values_SK.max(axis=0).tolist(),
            "last_by_seed": values_SK[:, -last:].mean(axis=1).tolist(),
        }
    tokens_SK = _tokens_SK(logs)
    shallow, deep = (
        fmean(row[kind] * row["episodes"] for rows in logs for row in rows)
        for kind in ("shallow", "deep")
    )
    return {
        "last_steps": last,
        "metrics": curves,
        "tokens_by_seed": tokens_SK[:, -1].tolist(),
        "tokens": tokens_SK.mean(axis=0).tolist(),
        "shallow_share": shallow / (shallow + deep) if shallow + deep else None,
    }


DEFINITION = (
    "The target is the baseline's accuracy at the last step, with rollback off. The target and the "
    "step at which an arm reaches it are read from the non-decreasing curve closest to the arm's "
    "evaluations (isotonic regression, least squares), with straight lines between evaluations. So "
    "neither a single lucky evaluation nor a curve that falls back reaches it. Ratios are relative "
    "to the baseline's own step."
)
_DIGITS = 9
"""Decimals that count when accuracies are compared: sums in other orders differ in later ones."""


def isotonic(values_RE: Floats) -> Floats:
    """The non-decreasing rows closest to the given ones, by least squares.

    The max-min formula: ``fit[i] = max over a <= i of min over b >= i of mean(values[a..b])``.

    Source: Robertson, Wright and Dykstra 1988, Order Restricted Statistical Inference, ch. 1.4.
    """
    count = values_RE.shape[1]
    sums = np.concatenate([np.zeros((len(values_RE), 1)), values_RE.cumsum(axis=1)], axis=1)
    fit = np.full_like(values_RE, -np.inf)
    for first in range(count):
        lengths = np.arange(1, count - first + 1)
        means = (sums[:, first + 1 :] - sums[:, first : first + 1]) / lengths
        lowest = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        fit[:, first:] = np.maximum(fit[:, first:], lowest)
    return fit


def first_reached(steps: Sequence[int], fit_RE: Floats, target_R: Floats) -> Floats:
    """[R] steps at which curves from ``isotonic`` reach their targets, interpolated between
    evaluations; inf for curves that do not."""
    fit_RE, target_R = fit_RE.round(_DIGITS), target_R.round(_DIGITS)
    # Backwards, so that of several evaluations with the same accuracy the first is taken.
    steps_E = np.asarray(steps, float)[::-1]
    pairs = zip(-fit_RE[:, ::-1], -target_R, strict=True)
    return np.array([np.interp(target, fit_E, steps_E, left=np.inf) for fit_E, target in pairs])
