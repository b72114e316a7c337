"""Source: what a directory or a file has to show, and the episodes in it, read one by one."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cleaner_env.completion import Decode
from cleaner_env.episode import Episode
from cleaner_env.episode_io import episode_from_dict
from cleaner_rl.errors import UserError
from cleaner_rl.runs.files import read_json, read_rows

Kind = Literal["run", "episodes", "evaluation", "comparison"]

_WANTED = (
    "name a run, an episode file (.jsonl or .jsonl.gz), the --out directory of an evaluation, or "
    "the directory of a comparison"
)


@dataclass(frozen=True, slots=True)
class Part:
    """One run, or one file, of what is shown.

    Attributes:
        arm: its name among several; "" if it is the only one.
        files: the episode files, each with the training step it belongs to, if any.
        config: the settings of the run; empty for a file.
        metrics: the rows of ``metrics.jsonl``.
        held_out: the figures of held-out evaluations, see ``cleaner_rl.view.data``.
    """

    arm: str
    files: Sequence[tuple[int | None, Path]]
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Source:
    """Everything that one page shows."""

    title: str
    kind: Kind
    parts: list[Part]

    @property
    def bytes(self) -> int:
        """The size of the episode files; compressed ones count eightfold."""
        files = [path for part in self.parts for _, path in part.files]
        return sum(path.stat().st_size * (8 if path.suffix == ".gz" else 1) for path in files)


@dataclass(frozen=True, slots=True)
class Logged:
    """An episode as a file holds it.

    Attributes:
        group: what the episodes of its group have in common, within their part.
        training: what a training step recorded with it (``cleaner_rl.view.trace``), or None.
        mode: whether rollback was on; "" if the file does not say.
    """

    episode: Episode
    group: tuple[Any, ...]
    step: int | None
    training: Mapping[str, Any] | None
    mode: str = ""


def find_source(path: Path) -> Source:
    """Find out what a path holds.

    Raises:
        UserError: it holds nothing that can be shown.
    """
    if not path.exists():
        raise UserError(f"there is no {path}; {_WANTED}")
    name = path.resolve().name
    if path.is_file():
        if not path.name.endswith((".jsonl", ".jsonl.gz")):
            raise UserError(f"{path} is no episode file; {_WANTED}")
        return Source(path.name, "episodes", [Part("", [(None, path)])])
    if (path / "comparison.json").exists():
        runs = sorted((path / "runs").glob("*/seed-*/config.json"))
        parts = [_run(run.parent, f"{run.parts[-3]}, {run.parts[-2]}") for run in runs]
        return _not_empty(Source(name, "comparison", parts), path)
    if (path / "episodes").is_dir():
        return _not_empty(Source(name, "run", [_run(path, "")]), path)
    if (path / "episodes.jsonl").exists():
        config = _read(path / "settings.json", "config")
        part = Part("", [(None, path / "episodes.jsonl")], config)
        return Source(name, "evaluation", [part])
    raise UserError(f"there is nothing to show in {path}; {_WANTED}")


def _not_empty(source: Source, path: Path) -> Source:
    if not any(part.files for part in source.parts):
        raise UserError(
            f"{path} has no episodes yet; wait for its first step, or train with --log-episodes"
        )
    return source


def _run(path: Path, arm: str) -> Part:
    files = sorted((path / "episodes").glob("step-*.jsonl"))
    steps = [(int(file.stem.removeprefix("step-")), file) for file in files]
    metrics = list(read_rows(path / "metrics.jsonl"))
    return Part(arm, steps, _read(path / "config.json"), metrics, _held_out(path))


def _held_out(run: Path) -> list[dict[str, Any]]:
    """Figures of the evaluations with rollback off, in the order of their steps."""
    found: dict[int, dict[str, Any]] = {}
    for file in sorted(run.glob("evaluation-*.json")):
        saved = read_json(file)
        metrics = saved.get("off", saved)["metrics"]
        found.setdefault(saved["step"], {"step": saved["step"], **metrics})
    return [found[step] for step in sorted(found)]


def _read(path: Path, *keys: str) -> Mapping[str, Any]:
    try:
        values: Mapping[str, Any] = read_json(path) or {}
        for key in keys:
            values = values[key]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    return values


def read_logged(path: Path, step: int | None = None) -> Iterator[Logged]:
    """Read the episodes of a file that a training step, an evaluation or ``write_episodes`` wrote.

    Where nothing says which episodes form a group, those of the same problem that follow each other
    do.

    Raises:
        UserError: a line is not an episode.
    """
    number, before = 0, None
    for at, row in enumerate(_rows(path), start=1):
        data = row.get("episode", row)
        training, facts = data.get("training"), data.get("evaluation", row)
        try:
            episode = episode_from_dict(data, _decoder(training))
        except ValueError as error:
            raise UserError(f"{path}, line {at}: {error}") from error
        mode = row.get("mode", "")
        group: tuple[Any, ...]
        if training is not None:
            step = training["step"]
            group = (step, training["group"])
        elif "problem" in facts:
            group = (mode, facts["problem"])
        else:
            number += episode.task != before
            before = episode.task
            group = (step, number)
        yield Logged(episode, group, step, training, mode)


def _decoder(training: Mapping[str, Any] | None) -> Decode | None:
    """Turns ids into text by the texts of the tokens that a file holds."""
    if training is None:
        return None
    texts = {int(number): text for number, text in training["texts"].items()}

    def decode(ids: Any) -> str:
        # A token may hold a part of a character only: its bytes are escaped (see trace.token_text).
        text = "".join(texts[i] for i in ids)
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    return decode


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, plain or compressed; the last line may still be being written."""
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8", "surrogatepass"))
                if not isinstance(row, dict):
                    raise ValueError("not an episode")
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return
                raise UserError(f"{path}, line {number}: {error}") from error
            yield row
