"""EvalJournal: the episodes of an evaluation, each saved when it ends, so that none is lost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from pathlib import Path
from shlex import quote
from typing import Any

from cleaner_env.chat.messages import Usage
from cleaner_env.completion import Completion, Decode
from cleaner_rl.errors import CheckpointError
from cleaner_rl.eval.config import SETTINGS
from cleaner_rl.runs.files import Row, append_row, read_json, read_rows, write_json, writing
from cleaner_rl.runs.lock import LOCK

EPISODES = "episodes.jsonl"
TURNS = "turns.jsonl"
SUMMARY = "summary.json"


class EvalJournal:
    """Rows of finished episodes, by mode and index, and the turns of unfinished ones.

    With a directory, each row is appended to ``episodes.jsonl`` when its episode ends, and each
    turn to ``turns.jsonl`` once it is sampled. A resumed evaluation replays those turns: unfinished
    episodes continue rather than being sampled again, so an interruption does not favour short
    ones. Without a directory, everything is kept in memory.
    """

    def __init__(
        self, directory: Path | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.directory = directory
        self.rows: dict[tuple[str, int], Row] = {}
        self._header: Row = {"config": settings, "identity": {}}
        self._turns: dict[tuple[str, int], list[Row]] = {}
        self._session = 1
        self._began = time.monotonic()

    @classmethod
    def begin(cls, directory: Path, settings: Mapping[str, Any]) -> EvalJournal:
        """An evaluation in an empty directory. Its settings are written by ``start_clock``."""
        if any(file.name != LOCK for file in directory.glob("*")):
            raise CheckpointError(
                f"{directory} is not empty; choose another --out, or continue the evaluation "
                f"that was started there: --resume {quote(str(directory))}"
            )
        return cls(directory, settings)

    @classmethod
    def resume(cls, directory: Path, settings: Mapping[str, Any]) -> EvalJournal:
        """Continue the evaluation in a directory; ``settings`` replace those that it had.

        A row that a kill cut short is dropped.
        """
        journal = cls(directory, settings)
        try:
            journal._header["identity"] = read_json(directory / SETTINGS)["identity"]
            for row in read_rows(directory / EPISODES, repair=True):
                journal.rows[row["mode"], row["index"]] = row
                journal._session = max(journal._session, row["session"] + 1)
            for turn in read_rows(directory / TURNS, repair=True):
                journal._turns.setdefault((turn["mode"], turn["index"]), []).append(turn)
        except OSError as error:
            raise CheckpointError(f"cannot continue in {directory}: {error}") from error
        except KeyError as error:
            raise CheckpointError(f"a row in {directory} has no {error}") from error
        return journal

    def identify(self, name: str, value: str | int) -> None:
        """Record a part of what is evaluated, or check that it is still the recorded one."""
        begun = bool(self.rows or self._turns)
        known = self._header["identity"].setdefault(name, "not recorded" if begun else value)
        if known != value:
            raise CheckpointError(
                f"the {name} of the evaluation in {self.directory} changed since it was started "
                f"({known} then, {value} now); start another one with another --out"
            )

    def start_clock(self) -> None:
        """Write the settings, and start counting the seconds that rows record."""
        if self.directory is not None:
            write_json(self.directory / SETTINGS, self._header)
        self._began = time.monotonic()

    def add_turn(self, mode: str, index: int, turn: Completion, usage: Usage | None = None) -> None:
        """Save a sampled turn of an episode that is being played."""
        row: Row = {"mode": mode, "index": index, "text": str(turn), "truncated": turn.truncated}
        if turn.tokens is not None:
            row["ids"] = list(turn.tokens.ids)
            row["logprobs"] = list(turn.tokens.logprobs)
            row["stop_length"] = turn.tokens.stop_length
        if usage is not None:
            row["usage"] = astuple(usage)
        self._append(TURNS, row)

    def add_episode(self, mode: str, row: Mapping[str, Any]) -> None:
        """Save a finished episode; ``row`` has its ``index``."""
        at = round(time.monotonic() - self._began, 3)
        whole = {"mode": mode, "session": self._session, "at": at, **row}
        self._append(EPISODES, whole)
        self.rows[mode, row["index"]] = whole

    def of_mode(self, mode: str) -> list[Row]:
        """The finished episodes of a mode, ordered by index."""
        return [self.rows[key] for key in sorted(self.rows) if key[0] == mode]

    def turns(self, mode: str, index: int, decode: Decode | None = None) -> list[Completion]:
        """The turns of an unfinished episode from earlier sessions. ``decode`` turns token ids into
        text; it is None for turns from an endpoint."""
        return [_completion(row, decode) for row in self._turns.get((mode, index), [])]

    def usage(self, mode: str, index: int) -> Usage:
        """The usage that an endpoint counted for those turns."""
        rows = self._turns.get((mode, index), [])
        return sum((Usage(*row["usage"]) for row in rows), Usage())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``, and remove the saved turns if the evaluation is complete."""
        if self.directory is None:
            return
        write_json(self.directory / SUMMARY, summary)
        if summary["complete"]:
            (self.directory / TURNS).unlink(missing_ok=True)

    def _append(self, name: str, row: Row) -> None:
        if self.directory is not None:
            remedy = f"free some space, then continue with --resume {quote(str(self.directory))}"
            with writing(self.directory / name, remedy) as path:
                append_row(path, row)


def wall_seconds(rows: Iterable[Mapping[str, Any]]) -> float:
    """The time that a mode took, summed over sessions."""
    ends: dict[int, float] = {}
    for row in rows:
        ends[row["session"]] = max(row["at"], ends.get(row["session"], 0.0))
    return round(sum(ends.values()), 3)


def _completion(row: Row, decode: Decode | None) -> Completion:
    truncated = row["truncated"]
    if "ids" not in row:
        return Completion(row["text"], truncated=truncated)
    assert decode is not None, "only a policy can continue turns with tokens"
    return Completion.from_tokens(
        row["ids"], row["logprobs"], decode, stop_length=row["stop_length"], truncated=truncated
    )
