"""Source: what a directory or a file has to show, and the episodes in it, read one by one."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cleaner_env.chat.token_texts import joined
from cleaner_env.completion import Decode
from cleaner_env.episode import Episode
from cleaner_env.episode_io import episode_from_dict
from cleaner_rl.errors import UserError
from cleaner_rl.runs.files import read_json, read_rows

Kind = Literal["run", "episodes", "evaluation", "comparison"]

_JOURNAL = "episodes.jsonl"
"""The episodes of ``cleaner_rl.eval``."""
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

    def episodes(self, only: int | None = None) -> Iterator[Logged]:
        """The episodes of all files, or of one step only."""
        for step, path in self.files:
            if only is None or step in (None, only):
                logged = read_logged(path, step)
                yield from (one for one in logged if only is None or one.step == only)


@dataclass(frozen=True, slots=True)
class Source:
    """Everything that one page shows."""

    title: str
    kind: Kind
    parts: Sequence[Part]


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
    name, parts = path.resolve().name, list[Part]()
    kind: Kind = "run"
    if path.is_file():
        if not path.name.endswith((".jsonl", ".jsonl.gz")):
            raise UserError(f"{path} is no episode file; {_WANTED}")
        return Source(path.name, "episodes", [Part("", [(None, path)])])
    if (path / _JOURNAL).exists():
        config = _json(path / "settings.json").get("config") or {}
        return Source(name, "evaluation", [Part("", [(None, path / _JOURNAL)], config)])
    if (path / "comparison.json").exists():
        kind, runs = "comparison", sorted((path / "runs").glob("*/seed-*/config.json"))
        parts = [_run(run.parent, f"{run.parts[-3]}, {run.parts[-2]}") for run in runs]
    elif (path / "episodes").is_dir():
        parts = [_run(path, "")]
    else:
        raise UserError(f"there is nothing to show in {path}; {_WANTED}")
    if not any(part.files for part in parts):
        raise UserError(
            f"{path} has no episodes yet; wait for its first step, or train with --log-episodes"
        )
    return Source(name, kind, parts)


def _run(path: Path, arm: str) -> Part:
    files = sorted((path / "episodes").glob("step-*.jsonl"))
    steps = [(int(file.stem.removeprefix("step-")), file) for file in files]
    metrics = list(read_rows(path / "metrics.jsonl"))
    held_out: dict[int, dict[str, Any]] = {}
    for file in sorted(path.glob("evaluation-*.json")):
        saved = _json(file)
        values = saved.get("off", saved).get("metrics", {})
        held_out.setdefault(saved.get("step", 0), {"step": saved.get("step", 0), **values})
    evaluated = [held_out[step] for step in sorted(held_out)]
    return Part(arm, steps, _json(path / "config.json"), metrics, evaluated)


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty if there is no such file."""
    try:
        values = read_json(path) or {}
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    return values


def read_logged(path: Path, step: int | None = None) -> Iterator[Logged]:
    """Read the episodes of a file that a training step, an evaluation or ``write_episodes`` wrote.

    Where nothing says which episodes form a group, those of the same problem that follow each other
    do.

    Raises:
        UserError: the file is damaged.
    """
    rows: Iterable[tuple[int, dict[str, Any]]] = _rows(path)
    if path.name == _JOURNAL:  # in the order in which episodes ended
        rows = sorted(rows, key=lambda row: (row[1].get("mode", ""), row[1].get("index", 0)))
    count, before = 0, None
    for line, row in rows:
        group: tuple[Any, ...]
        try:
            data, mode = row.get("episode", row), row.get("mode")
            training, facts = data.get("training"), data.get("evaluation", row)
            episode = episode_from_dict(data, _decoder(training))
            if training is not None:
                step, group = training["step"], (training["group"],)
            elif "problem" in facts:
                group = (mode, facts["problem"])
            else:
                count += episode.task != before
                before, group = episode.task, (count,)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}, line {line}: {error}") from error
        yield Logged(episode, (step, *group), step, training, mode or "")


def _decoder(training: Mapping[str, Any] | None) -> Decode | None:
    """Turns ids into text by the texts of the tokens that a file holds."""
    if training is None:
        return None
    texts = {int(key): text for key, text in training["texts"].items()}
    return lambda ids: joined([texts[one] for one in ids])


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of a file, plain or compressed, with their numbers; the last one may still be being
    written."""
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    line = b""
    try:
        with opened(path, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    row = json.loads(line.decode("utf-8", "surrogatepass"))
                    if not isinstance(row, dict):
                        raise ValueError(f"line {number} is not an object")
                    yield number, row
    except (ValueError, OSError, EOFError) as error:
        if isinstance(error, OSError | EOFError) or line.endswith(b"\n"):
            raise UserError(f"cannot read {path}: {error}") from error
