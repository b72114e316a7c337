"""Summary: what an evaluation came to, as data for scripts and as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cleaner_rl.eval.config import EvalConfig, load_settings
from cleaner_rl.eval.evaluate import Evaluation, difference
from cleaner_rl.eval.journal import EvalJournal, wall_seconds
from cleaner_rl.runs.files import Row
from cleaner_rl.runs.provenance import made_with

_DIFFERENCE = "on - off"
_OF_ROLLBACK = ("triggered", "recovered", "exhausted", "shallow", "deep", "tokens_discarded")
_WIDTH = 25


def summarize(config: EvalConfig, rows: Mapping[str, Sequence[Row]], tasks: int) -> dict[str, Any]:
    """The summary of saved episodes.

    Args:
        config: of the evaluation.
        rows: of each mode.
        tasks: how many problems were to be played.

    Returns:
        ``config``, ``made_with``, ``tasks``, ``complete``, ``missing`` (episodes, by mode),
        ``warnings``, ``results`` (by mode: ``Evaluation.summary()``, ``wall_seconds``, and for an
        endpoint ``usage``), and with both modes ``difference``: for each metric ``on - off`` and
        the ends of its 95% interval.
    """
    missing = {mode: tasks * config.samples - len(rows[mode]) for mode in config.modes}
    found = {
        mode: Evaluation.of(rows[mode], config.samples, config.seed)
        for mode in config.modes
        if rows[mode]
    }
    summary: dict[str, Any] = {
        "config": config.settings(),
        "made_with": made_with(),
        "tasks": tasks,
        "complete": not any(missing.values()),
        "missing": missing,
        "warnings": _warnings(config, found),
        "results": {
            mode: {**result.summary(), **_spent(rows[mode])} for mode, result in found.items()
        },
    }
    if len(found) == 2:
        compared = difference(found["off"], found["on"], config.seed)
        summary["difference"] = {name: list(values) for name, values in compared.items()}
    return summary


def _warnings(config: EvalConfig, found: Mapping[str, Evaluation]) -> list[str]:
    """What makes figures worthless without looking wrong."""
    warnings = []
    for mode, result in found.items():
        if not result.metrics["calls"]:
            warnings.append(
                f"rollback {mode}: no episode called the tool; does the model know its format? "
                f"python -m cleaner_rl.doctor --model {config.model} looks into it"
            )
        if result.metrics["answered"] and not result.metrics["answer_found"]:
            warnings.append(
                f"rollback {mode}: no answer stood in \\boxed{{}}, so none could be graded; read "
                "some of the episodes (--out)"
            )
    return warnings


def summarize_directory(directory: Path) -> dict[str, Any]:
    """The summary computed again from what lies in an evaluation's directory."""
    config, journal = load_settings(directory), EvalJournal.resume(directory)
    rows = {mode: journal.of_mode(mode) for mode in config.modes}
    return summarize(config, rows, journal.problems)


def _spent(rows: Sequence[Row]) -> dict[str, Any]:
    """Time, and tokens that an endpoint counted."""
    spent: dict[str, Any] = {"wall_seconds": wall_seconds(rows)}
    counted = [row["usage"] for row in rows if "usage" in row]
    if counted:
        spent["usage"] = {name: sum(usage[name] for usage in counted) for name in counted[0]}
    return spent


def table(summary: Mapping[str, Any]) -> str:
    """The results side by side, with 95% intervals over problems."""
    results, samples = summary["results"], summary["config"]["samples"]
    compared = summary.get("difference", {})
    heads = [*results, _DIFFERENCE] if compared else list(results)
    lines = [f"{'rollback':<20}" + "".join(f"{head:>{_WIDTH}}" for head in heads)]
    for name in next(iter(results.values()))["metrics"]:
        if name == "pass@1" or (list(results) == ["off"] and name in _OF_ROLLBACK):
            continue  # the same number as accuracy; what cannot happen
        cells = [_cell(result, name) for result in results.values()]
        if name in compared:
            cells.append(_interval(compared[name], "+"))
        label = f"accuracy (avg@{samples})" if name == "accuracy" else name
        lines.append(f"{label:<20}" + "".join(f"{cell:>{_WIDTH}}" for cell in cells))
    times = [f"{result['wall_seconds']:.1f}" for result in results.values()]
    lines.append(f"{'wall_seconds':<20}" + "".join(f"{time:>{_WIDTH}}" for time in times))
    return "\n".join(lines)


def _cell(result: Mapping[str, Any], name: str) -> str:
    """A metric and its interval; a dash where there was nothing to count."""
    value, ends = result["metrics"].get(name), result["intervals_95"].get(name)
    if value is None or (ends is None and result["tasks"] > 1):
        return "-"
    return _number(value) if ends is None else _interval((value, *ends))


def _interval(estimate: Sequence[float], sign: str = "") -> str:
    value, low, high = estimate
    return f"{_number(value, sign)} [{_number(low, sign)}, {_number(high, sign)}]"


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if abs(value) < 10 else f"{value:{sign}.1f}"
