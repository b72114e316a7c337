"""RunMetrics: what a run's files say about its steps and its time, also while it is under way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cleaner_rl.runs.evaluations import MODES, evaluated_steps, summary_path


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``; a line that is being written is left out."""
    file = run / "metrics.jsonl"
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def evaluation_seconds(run: Path, step: int) -> float:
    """Wall time of the evaluation of a step, both modes."""
    figures = json.loads(summary_path(run, step).read_text(encoding="utf-8"))
    return float(sum(figures[mode]["wall_seconds"] for mode in MODES))


def wall_seconds(run: Path) -> dict[str, float]:
    """Wall time of all steps, and of all evaluations after the first, which runs share."""
    later = [step for step in evaluated_steps(run) if step > 0]
    return {
        "training": round(sum(float(row["step_seconds"]) for row in read_metrics(run)), 3),
        "evaluation": round(sum(evaluation_seconds(run, step) for step in later), 3),
    }
