"""EvalJournal: the episodes of an evaluation, saved as they end, so that none is lost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

from cleaner_env.completion import Completion, Decode
from cleaner_rl.errors import CheckpointError
from cleaner_rl.eval.config import SETTINGS
from cleaner_rl.rollout.endpoint import Usage
from cleaner_rl.runs.files import Row, append_row, read_json, read_rows, write_json

EPISODES = "episodes.jsonl"
TURNS = "turns.jsonl"
SUMMARY = "summary.json"


class EvalJournal:
    """Rows of finished episodes, by mode and index, and the turns of those that are being played.

    With a directory every row is appended to ``episodes.jsonl`` when its episode ends, and every
    turn to ``turns.jsonl`` when it was sampled. A resumed evaluation steps through those turns
    again: episodes that were under way are continued and not drawn anew, so an interruption does
    not favour the short ones. Without a directory everything is kept in memory.
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
        """Begin an evaluation in a directory that holds nothing yet."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if any(directory.iterdir()):
                raise CheckpointError(
                    f"{directory} is not empty; choose another --out, or go on with an evaluation "
                    f"that was begun there: --resume {directory}"
                )
            journal = cls(directory, settings)
            journal._write_header()
        except OSError as error:
            message = f"cannot write {directory}: {error}; choose another --out"
            raise CheckpointError(message) from error
        return journal

    @classmethod
    def resume(cls, directory: Path, settings: Mapping[str, Any] | None = None) -> EvalJournal:
        """The evaluation that was begun there; ``settings`` take the place of those that it had.

        What a kill cut short is dropped.
        """
        journal = cls(directory)
        try:
            journal._header |= read_json(directory / SETTINGS)
            if settings is not None:
                journal._header["config"] = settings
                journal._write_header()
            for row in read_rows(directory / EPISODES, mend=True):
                journal.rows[row["mode"], row["index"]] = row
                journal._session = max(journal._session, row["session"] + 1)
            for turn in read_rows(directory / TURNS, mend=True):
                journal._turns.setdefault((turn["mode"], turn["index"]), []).append(turn)
        except OSError as error:
            raise CheckpointError(f"cannot go on in {directory}: {error}") from error
        except KeyError as error:
            raise CheckpointError(f"a row in {directory} has no {error}") from error
        return journal

    def identify(self, name: str, value: str | int) -> None:
        """Record what is evaluated, or what on, or check that it is the same as before."""
        begun = bool(self.rows or self._turns)
        known = self._header["identity"].setdefault(name, "not recorded" if begun else value)
        if known != value:
            raise CheckpointError(
                f"the {name} of the evaluation in {self.directory} changed since it was begun "
                f"({known} then, {value} now); begin another one with another --out"
            )
        self._write_header()

    @property
    def problems(self) -> int:
        """How many problems the evaluation has."""
        return int(self._header["identity"]["problems"])

    def start_clock(self) -> None:
        """Rows record the seconds since then."""
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
        """The finished episodes of a mode, by their indices."""
        return [self.rows[key] for key in sorted(self.rows) if key[0] == mode]

    def turns(self, mode: str, index: int, decode: Decode | None = None) -> list[Completion]:
        """What was sampled in earlier sessions for an episode that has not ended; ``decode`` turns
        token ids into text, and is None where an endpoint sampled them."""
        return [_completion(row, decode) for row in self._turns.get((mode, index), [])]

    def usage(self, mode: str, index: int) -> Usage:
        """What an endpoint counted for those turns."""
        rows = self._turns.get((mode, index), [])
        return sum((Usage(*row["usage"]) for row in rows), Usage())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``; a complete evaluation needs its turns no more."""
        if self.directory is None:
            return
        write_json(self.directory / SUMMARY, summary)
        if summary["complete"]:
            (self.directory / TURNS).unlink(missing_ok=True)

    def _write_header(self) -> None:
        if self.directory is not None:
            write_json(self.directory / SETTINGS, self._header)

    def _append(self, name: str, row: Row) -> None:
        if self.directory is None:
            return
        try:
            append_row(self.directory / name, row)
        except OSError as error:
            raise CheckpointError(
                f"cannot write {self.directory / name}: {error}; make room, then go on with "
                f"--resume {self.directory}"
            ) from error


def wall_seconds(rows: Iterable[Row]) -> float:
    """Time that the episodes of a mode took, summed over the sessions that played them."""
    ends: dict[int, float] = {}
    for row in rows:
        ends[row["session"]] = max(row["at"], ends.get(row["session"], 0.0))
    return round(sum(ends.values()), 3)


def _completion(row: Row, decode: Decode | None) -> Completion:
    truncated = row["truncated"]
    if "ids" not in row:
        return Completion(row["text"], truncated=truncated)
    assert decode is not None, "turns with tokens are continued by a policy"
    return Completion.from_tokens(
        row["ids"], row["logprobs"], decode, stop_length=row["stop_length"], truncated=truncated
    )
