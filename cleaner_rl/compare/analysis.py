"""Comparison: everything that a comparison found, computed from the files of its runs.

Axes of arrays: ``_S`` seeds, ``_E`` evaluations, ``_K`` training steps from 0, ``_R`` resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from cleaner_rl.compare.arms import ARMS, BASELINE
from cleaner_rl.compare.directory import PlannedRun
from cleaner_rl.errors import CheckpointError
from cleaner_rl.eval.statistics import Crossed, CrossedBootstrap, Floats, seeds_interval
from cleaner_rl.runs.evaluations import MODES, evaluated_steps, read_evaluation
from cleaner_rl.runs.metrics import EpisodeSummary
from cleaner_rl.runs.run_directory import read_metrics, wall_seconds

Part = Callable[[EpisodeSummary], tuple[float, float]]
"""What an episode adds to a measure, and how much it counts in it."""

HELD_OUT: dict[str, tuple[bool, Part]] = {
    "accuracy": (True, lambda o: (o.correct, 1)),
    "failed_calls": (False, lambda o: (o.stats["failures"], 1)),
    "first_attempt_success": (
        True,
        lambda o: (o.stats["first_attempt_successes"], o.stats["first_attempt_calls"]),
    ),
    "first_call_failed": (True, lambda o: (bool(o.first_call_failed), _counts(o))),
    "recovery": (True, lambda o: (sum(o.mended), len(o.mended))),
    "answered": (True, lambda o: (o.answered, 1)),
    "calls": (False, lambda o: (o.stats["calls"], 1)),
    "turns": (False, lambda o: (o.stats["turns"], 1)),
    "tokens_sampled": (False, lambda o: (o.stats["tokens_sampled"], 1)),
    "tokens_discarded": (False, lambda o: (o.stats["tokens_discarded"], 1)),
    "triggered": (False, lambda o: (o.stats["triggered"], 1)),
    "recovered": (False, lambda o: (o.stats["recovered"], 1)),
    "exhausted": (False, lambda o: (o.stats["exhausted"], 1)),
    "shallow": (False, lambda o: (o.stats["shallow"], 1)),
    "deep": (False, lambda o: (o.stats["deep"], 1)),
}
"""Measures of held-out episodes: whether they are shares, and what an episode adds."""
TRAINING = (
    *("reward", "accuracy", "entropy", "failed_calls", "first_call_failed", "calls", "turns"),
    *("tokens_sampled", "tokens_discarded", "triggered", "recovered", "shallow", "deep"),
    *("groups_with_signal", "grafted_share", "grafted_gap", "sampled_gap", "kl", "clipped"),
    "grad_norm",
)
"""Metrics of the training log that are compared."""
_LAST = 0.25
"""Share of the steps, at the end, that the training's figures are means over."""

Measures = dict[str, Crossed]


@dataclass(frozen=True, slots=True)
class ArmRecord:
    """What the runs of an arm left behind.

    Attributes:
        evaluations: step -> mode -> measures.
        metrics: of each seed, a row a step.
        seconds: wall time of each seed's run, by what it was spent on.
    """

    evaluations: Mapping[int, Mapping[str, Measures]]
    metrics: Sequence[Sequence[Mapping[str, float]]]
    seconds: Sequence[Mapping[str, float]]

    @classmethod
    def read(cls, runs: Sequence[PlannedRun]) -> ArmRecord:
        """The record of an arm's finished runs, one for each seed.

        Raises:
            CheckpointError: a file is missing or damaged, or the runs do not fit together.
        """
        steps = evaluated_steps(runs[0].path)
        for run in runs:
            if evaluated_steps(run.path) != steps:
                raise CheckpointError(
                    f"{run.path} was evaluated at steps {evaluated_steps(run.path)}, and "
                    f"{runs[0].path} at {steps}"
                )
        return cls(
            evaluations={
                step: {mode: _measures(runs, step, mode) for mode in MODES} for step in steps
            },
            metrics=[read_metrics(run.path) for run in runs],
            seconds=[wall_seconds(run.path) for run in runs],
        )

    @property
    def tasks(self) -> int:
        """Problems up to the last one that was not spoilt everywhere."""
        return max(
            int(measures["accuracy"].total_SP.shape[1])
            for of_step in self.evaluations.values()
            for measures in of_step.values()
        )

    def padded(self, tasks: int) -> ArmRecord:
        """The same with that many problems."""
        evaluations = {
            step: {
                mode: {name: measure.padded(tasks) for name, measure in measures.items()}
                for mode, measures in of_step.items()
            }
            for step, of_step in self.evaluations.items()
        }
        return replace(self, evaluations=evaluations)

    @property
    def tokens_SK(self) -> Floats:
        """Tokens sampled up to each step of the training, from step 0 on."""
        sampled = [
            [row["tokens_sampled"] * row["episodes"] for row in rows] for rows in self.metrics
        ]
        return np.concatenate([np.zeros((len(sampled), 1)), np.cumsum(sampled, axis=1)], axis=1)


def compare(runs: Mapping[str, Sequence[PlannedRun]]) -> dict[str, Any]:
    """What the finished runs of all arms come to.

    Args:
        runs: of each arm, with the same seeds in the same order.

    Returns:
        Plain data, explained in docs/compare.md: ``baseline``, ``seeds``, ``tasks``, ``samples``,
        ``steps``, ``evaluated_steps``, ``arms``, ``held_out``, ``differences``, ``reaching``,
        ``training``, ``seconds``.

    Raises:
        CheckpointError: a file is missing or damaged, or the runs do not fit together.
    """
    records = {name: ArmRecord.read(of_arm) for name, of_arm in runs.items()}
    baseline = BASELINE if BASELINE in records else next(iter(records))
    tasks = max(record.tasks for record in records.values())
    records = {name: record.padded(tasks) for name, record in records.items()}
    first, config = records[baseline], runs[baseline][0].config
    steps = list(first.evaluations)
    _require_same_steps(records, steps)
    resampling = CrossedBootstrap(len(runs[baseline]), tasks, config.seed)
    return {
        "baseline": baseline,
        "seeds": [run.seed for run in runs[baseline]],
        "tasks": tasks,
        "samples": config.eval_samples,
        "steps": config.steps,
        "evaluated_steps": steps,
        "arms": {
            name: {"text": ARMS[name].text, "changes": dict(ARMS[name].changes)} for name in runs
        },
        "held_out": {
            name: _by_step(record, lambda _, __, measures: _estimates(measures, resampling))
            for name, record in records.items()
        },
        "differences": {
            name: _by_step(record, _against(first, resampling))
            for name, record in records.items()
            if name != baseline
        },
        "reaching": _reaching(records, baseline, resampling),
        "training": {name: _training(record) for name, record in records.items()},
        "seconds": {name: list(record.seconds) for name, record in records.items()},
    }


def _counts(outcome: EpisodeSummary) -> float:
    return float(outcome.first_call_failed is not None)


def _measures(runs: Sequence[PlannedRun], step: int, mode: str) -> Measures:
    """The parts of all measures for each seed and problem; spoilt episodes count nowhere."""
    outcomes = [
        [EpisodeSummary.of(r) for r in read_evaluation(run.path, step, mode)] for run in runs
    ]
    problems = 1 + max((o.problem for of_seed in outcomes for o in of_seed), default=0)
    measures = {}
    for name, (share, part) in HELD_OUT.items():
        total_SP = np.zeros((len(runs), problems))
        count_SP = np.zeros((len(runs), problems))
        for s, of_seed in enumerate(outcomes):
            for outcome in of_seed:
                total, count = part(outcome)
                total_SP[s, outcome.problem] += total
                count_SP[s, outcome.problem] += count
        measures[name] = Crossed(total_SP, count_SP, share)
    return measures


def _require_same_steps(records: Mapping[str, ArmRecord], steps: Sequence[int]) -> None:
    for name, record in records.items():
        if list(record.evaluations) != list(steps):
            raise CheckpointError(
                f"the arm {name} was evaluated at steps {list(record.evaluations)}, the baseline "
                f"at {list(steps)}; they cannot be compared"
            )


def _by_step(
    record: ArmRecord, value: Callable[[int, str, Measures], dict[str, Any]]
) -> dict[str, Any]:
    """mode -> step (a string, as JSON has it) -> what ``value`` makes of it."""
    return {
        mode: {
            str(step): value(step, mode, of_step[mode])
            for step, of_step in record.evaluations.items()
        }
        for mode in MODES
    }


def _estimates(measures: Measures, resampling: CrossedBootstrap) -> dict[str, Any]:
    return {
        name: {
            "value": measure.value,
            "interval_95": _ends(resampling.interval(measure)),
            "by_seed": measure.by_seed,
        }
        for name, measure in measures.items()
    }


def _against(
    baseline: ArmRecord, resampling: CrossedBootstrap
) -> Callable[[int, str, Measures], dict[str, Any]]:
    def difference(step: int, mode: str, measures: Measures) -> dict[str, Any]:
        others = baseline.evaluations[step][mode]
        return {
            name: {
                "value": measure.value - other,
                "interval_95": _ends(resampling.difference(others[name], measure)),
                "by_seed": (by_seed := _less(measure.by_seed, others[name].by_seed)),
                "seeds_interval_95": _ends(None if by_seed is None else seeds_interval(by_seed)),
            }
            for name, measure in measures.items()
            if measure.value is not None and (other := others[name].value) is not None
        }

    return difference


def _less(ours: Sequence[float | None], theirs: Sequence[float | None]) -> list[float] | None:
    """Differences by seed; None where a seed has none."""
    pairs = list(zip(ours, theirs, strict=True))
    known = [a - b for a, b in pairs if a is not None and b is not None]
    return known if len(known) == len(pairs) else None


def _ends(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _reaching(
    records: Mapping[str, ArmRecord], baseline: str, resampling: CrossedBootstrap
) -> dict[str, Any]:
    """When each arm reached the baseline's final accuracy; see ``reaching.DEFINITION``.

    Row 0 of all arrays is the estimate itself, the others are the resamples.
    """
    steps = list(records[baseline].evaluations)
    curves = {name: isotonic(_accuracy_RE(record, resampling)) for name, record in records.items()}
    target_R = curves[baseline][:, -1]
    reached = {name: first_reached(steps, fit_RE, target_R) for name, fit_RE in curves.items()}
    tokens = {
        name: _tokens_at(record, reached[name], resampling) for name, record in records.items()
    }
    return {
        "target": float(target_R[0]),
        "arms": {
            name: {
                "steps": _number(reached[name][0]),
                "steps_interval_95": _quantiles(reached[name][1:]),
                "tokens": _number(tokens[name][0]),
                "steps_ratio": _number(_over(reached[name], reached[baseline])[0]),
                "steps_ratio_interval_95": _quantiles(_over(reached[name], reached[baseline])[1:]),
                "tokens_ratio": _number(_over(tokens[name], tokens[baseline])[0]),
                "tokens_ratio_interval_95": _quantiles(_over(tokens[name], tokens[baseline])[1:]),
                "reached_in_resamples": float(np.isfinite(reached[name][1:]).mean()),
            }
            for name in records
        },
    }


def _accuracy_RE(record: ArmRecord, resampling: CrossedBootstrap) -> Floats:
    columns = []
    for of_step in record.evaluations.values():
        measure = of_step["off"]["accuracy"]
        columns.append(np.concatenate([[measure.value], resampling.values(measure)]))
    return np.stack(columns, axis=1)


def _tokens_at(record: ArmRecord, steps_R: Floats, resampling: CrossedBootstrap) -> Floats:
    """[R] tokens that a seed sampled, on average, up to these steps; inf where there is no step."""
    tokens_SK = record.tokens_SK
    means_RK = np.concatenate(
        [tokens_SK.mean(axis=0, keepdims=True), resampling.seed_means(tokens_SK)]
    )
    steps_K = np.arange(tokens_SK.shape[1])
    return np.array(
        [
            np.interp(step, steps_K, means_K) if np.isfinite(step) else np.inf
            for step, means_K in zip(steps_R, means_RK, strict=True)
        ]
    )


def _over(values_R: Floats, baseline_R: Floats) -> Floats:
    """Ratios; nan where the baseline was at its target from the start."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios: Floats = np.where(baseline_R > 0, values_R / baseline_R, np.nan)
    return ratios


def _quantiles(values_R: Floats) -> list[float | None] | None:
    """Both ends of the 95% interval; None for an end that is not reached."""
    known = np.sort(values_R[~np.isnan(values_R)])
    if not len(known):
        return None
    low, high = (known[round(q * (len(known) - 1))] for q in (0.025, 0.975))
    return [_number(low), _number(high)]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _training(record: ArmRecord) -> dict[str, Any]:
    """Each metric's mean over seeds at every step, its range over seeds, and its last figures."""
    names = [name for name in TRAINING if all(name in rows[0] for rows in record.metrics)]
    last = max(1, round(_LAST * len(record.metrics[0])))
    curves = {}
    for name in names:
        values_SK = np.array([[row[name] for row in rows] for rows in record.metrics], float)
        curves[name] = {
            "mean": values_SK.mean(axis=0).tolist(),
            "lowest": values_SK.min(axis=0).tolist(),
            "highest": values_SK.max(axis=0).tolist(),
            "last_by_seed": values_SK[:, -last:].mean(axis=1).tolist(),
        }
    tokens_SK = record.tokens_SK
    return {
        "last_steps": last,
        "metrics": curves,
        "tokens_by_seed": tokens_SK[:, -1].tolist(),
        "tokens": tokens_SK.mean(axis=0).tolist(),
        "shallow_share": _shallow_share(record),
    }


def _shallow_share(record: ArmRecord) -> float | None:
    """Of all splices of the training."""
    rows = [row for rows in record.metrics for row in rows]
    shallow = fmean(row["shallow"] * row["episodes"] for row in rows)
    deep = fmean(row["deep"] * row["episodes"] for row in rows)
    return shallow / (shallow + deep) if shallow + deep else None


DEFINITION = (
    "The target is the baseline's accuracy at the last step, rollback off. Both it and the step at "
    "which an arm reaches it are read from the curve that rises, or stays level, and lies closest "
    "to the arm's evaluations (isotonic regression, least squares), with straight lines between "
    "evaluations. So a single lucky evaluation reaches nothing, nor does a curve that falls back. "
    "Ratios are to the baseline's own step."
)
_ROUNDING = 1e-9


def isotonic(values_RE: Floats) -> Floats:
    """The non-decreasing rows closest to these, by least squares.

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
    """[R] steps at which non-decreasing curves reach their targets; inf where they do not.

    Args:
        steps: of the evaluations.
        fit_RE: from ``isotonic``.
        target_R: one for each curve.
    """
    reached_RE = fit_RE >= target_R[:, None] - _ROUNDING
    steps_E = np.asarray(steps, float)
    at = reached_RE.argmax(axis=1)
    before = np.maximum(at - 1, 0)
    rows = np.arange(len(fit_RE))
    low, high = fit_RE[rows, before], fit_RE[rows, at]
    rise = np.where(high > low, high - low, 1.0)
    share = np.where(at > 0, np.clip((target_R - low) / rise, 0.0, 1.0), 0.0)
    step = steps_E[before] + share * (steps_E[at] - steps_E[before])
    found: Floats = np.where(reached_RE.any(axis=1), step, np.inf)
    return found
