"""Summary: the results of an evaluation, as data for scripts and as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from cleaner_rl.eval.config import EvalConfig
from cleaner_rl.eval.evaluate import Evaluation, difference
from cleaner_rl.eval.journal import wall_seconds
from cleaner_rl.runs.files import Row
from cleaner_rl.runs.provenance import made_with

_DIFFERENCE = "on - off"
_OF_ROLLBACK = ("triggered", "recovered", "exhausted", "shallow", "deep", "tokens_discarded")
_WIDTH = 25


def summarize(config: EvalConfig, rows: Mapping[str, Sequence[Row]], tasks: int) -> dict[str, Any]:
    """Summarise the episodes saved in each mode of an evaluation on ``tasks`` tasks.

    ``missing`` counts episodes. ``results`` has, for each mode, ``Evaluation.summary()``,
    ``wall_seconds`` and, for an endpoint, ``usage``. With both modes, ``difference`` has ``on -
    off`` of each metric and its 95% interval.
    """
    missing = {mode: tasks * config.samples - len(rows[mode]) for mode in config.modes}
    found = {
        mode: Evaluation.of(of_mode, config.samples, config.seed)
        for mode, of_mode in rows.items()
        if of_mode
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
        if not compared and tasks > 1:
            summary["warnings"].append(
                "no difference is given: faults have left the two modes different problems; "
                "--resume plays what is missing"
            )
    return summary


def _warnings(config: EvalConfig, found: Mapping[str, Evaluation]) -> list[str]:
    """Warnings of problems that make figures worthless without looking wrong."""
    warnings = []
    for mode, result in found.items():
        if _spent(result.rows).get("usage", {}).get("estimated_tokens"):
            warnings.append(
                f"rollback {mode}: the server does not count tokens; they are estimated, one for "
                "four characters, in the figures and for --max-response-tokens"
            )
        if not result.metrics["calls"]:
            warnings.append(
                f"rollback {mode}: no episode called the tool; does the model know its format? "
                f"Check it with: python -m cleaner_rl.doctor --model {quote(config.model)}"
            )
        if result.metrics["answered"] and not result.metrics["answer_found"]:
            warnings.append(
                f"rollback {mode}: no answer stood in \\boxed{{}}, so none could be graded; read "
                "some of the episodes, which --out saves"
            )
    return warnings


def _spent(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Wall time, and the tokens that an endpoint counted."""
    spent: dict[str, Any] = {"wall_seconds": wall_seconds(rows)}
    counted = [row["usage"] for row in rows if "usage" in row]
    if counted:
        spent["usage"] = {n: sum(usage.get(n, 0) for usage in counted) for n in counted[-1]}
    return spent


def table(summary: Mapping[str, Any]) -> str:
    """The results side by side, with 95% intervals over problems."""
    results, samples = summary["results"], summary["config"]["samples"]
    compared = summary.get("difference", {})
    heads = [*results, _DIFFERENCE] if compared else list(results)
    rows = [["rollback", *heads]]
    for name in next(iter(results.values()))["metrics"]:
        if name == "pass@1" or (list(results) == ["off"] and name in _OF_ROLLBACK):
            continue  # equal to accuracy; impossible without rollback
        label = f"accuracy (avg@{samples})" if name == "accuracy" else name
        rows.append([label, *(_cell(result, name) for result in results.values())])
        if name in compared:
            rows[-1].append(_interval(compared[name], "+"))
    rows.append(["wall_seconds", *(f"{of['wall_seconds']:.1f}" for of in results.values())])
    return "\n".join(f"{row[0]:<20}" + "".join(f"{c:>{_WIDTH}}" for c in row[1:]) for row in rows)


def _cell(result: Mapping[str, Any], name: str) -> str:
    """A metric and its interval; a dash if nothing counts."""
    value, ends = result["metrics"].get(name), result["intervals_95"].get(name)
    if value is None or (ends is None and result["tasks"] > 1):
        return "-"
    return _number(value) if ends is None else _interval((value, *ends))


def _interval(estimate: Sequence[float], sign: str = "") -> str:
    value, low, high = estimate
    return f"{_number(value, sign)} [{_number(low, sign)}, {_number(high, sign)}]"


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if abs(value) < 10 else f"{value:{sign}.1f}"
