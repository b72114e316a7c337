"""Evaluation files: the held-out episodes of a run at one of its steps, written and read back.

evaluation-000010.json                  figures with rollback off and on; written last, so that it
                                        exists only if the evaluation is complete
evaluations/step-000010-off.jsonl.gz    every episode with rollback off, an episode file
evaluations/step-000010-on.jsonl.gz     the same problems with rollback on
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cleaner_env.episode_io import json_line
from cleaner_rl.errors import CheckpointError
from cleaner_rl.runs.files import write_json, write_whole, writing

MODES = ("off", "on")
"""Whether an evaluation has rollback."""
FOLDER = "evaluations"

Row = Mapping[str, Any]


def summary_path(run: Path, step: int) -> Path:
    """The file with the figures of a step."""
    return run / f"evaluation-{step:06d}.json"


def episodes_path(run: Path, step: int, mode: str) -> Path:
    """The file with the episodes of a step and a mode."""
    return run / FOLDER / f"step-{step:06d}-{mode}.jsonl.gz"


def evaluated_steps(run: Path) -> list[int]:
    """The steps that have a complete evaluation, in order."""
    files = run.glob("evaluation-[0-9]*.json")
    return sorted(int(file.stem.removeprefix("evaluation-")) for file in files)


def write_evaluation(
    run: Path, step: int, rows: Mapping[str, Sequence[Row]], summary: Mapping[str, Any]
) -> None:
    """Write the episodes of every mode, as rows made by ``episode_row``, then the figures."""
    with writing(run):
        (run / FOLDER).mkdir(exist_ok=True)
        for mode, of_mode in rows.items():
            lines = map(_line, sorted(of_mode, key=_place))
            data = "".join(lines).encode("utf-8", "surrogatepass")
            write_whole(episodes_path(run, step, mode), gzip.compress(data, mtime=0))
        write_json(summary_path(run, step), summary)


def read_evaluation(run: Path, step: int, mode: str) -> list[Row]:
    """Read the rows of a step and a mode, in the order of their problems."""
    path = episodes_path(run, step, mode)
    try:
        with gzip.open(path, "rb") as stream:
            lines = [json.loads(line.decode("utf-8", "surrogatepass")) for line in stream]
        rows = [{**line.pop("evaluation"), "episode": line} for line in lines]
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"cannot read the episodes in {path}: {error}") from error
    return sorted(rows, key=_place)


def forget_evaluations(run: Path, step: int) -> None:
    """Remove the evaluations of later steps, which will be trained again."""
    for later in evaluated_steps(run):
        if later > step:
            summary_path(run, later).unlink()
            for mode in MODES:
                episodes_path(run, later, mode).unlink(missing_ok=True)


def _place(row: Row) -> tuple[int, int]:
    return row["problem"], row["sample"]


def _line(row: Row) -> str:
    facts = {name: row[name] for name in ("problem", "sample", "seconds")}
    return json_line({**row["episode"], "evaluation": facts}) + "\n"
