"""Episodes as plain data for JSON, and files with one episode per line, compressed for ``.gz``."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np

from cleaner_env.completion import Completion, Decode, Tokens
from cleaner_env.episode import Episode, RollbackRecord, Turn
from cleaner_env.formats.protocol import ParsedTurn
from cleaner_env.task import Task

VERSION = 1
"""Version of the data's layout. Data of another version is refused."""

_OUTCOME = (
    *("answer", "score", "reward", "terminated", "truncated", "faulted", "stateful", "rollback"),
    "max_observation_chars",
)
_TASK = ("prompt", "answer", "family", "reward")
_TURN = ("observation", "ok", "error_class", "note", "masked")
_RECORD = ("position", "retry", "outcome", "decision", "similarity")
"""What is saved as it is."""
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


class EpisodeFileError(ValueError):
    """A file of episodes cannot be read; the message names the file and the line."""


def write_episodes(path: str | Path, episodes: Iterable[Episode], *, append: bool = False) -> None:
    """Write episodes to a file, or append them to it."""
    with _open(Path(path), "a" if append else "w") as stream:
        for episode in episodes:
            line = json_line(episode_to_dict(episode)) + "\n"
            stream.write(line.encode("utf-8", "surrogatepass"))


def read_episodes(path: str | Path, decode: Decode | None = None) -> list[Episode]:
    """Read the episodes of a file. Empty lines are skipped.

    ``decode`` turns token ids into text. Without it, tokens have ids, log-probabilities and flags,
    but no text.

    Raises:
        EpisodeFileError: a line is not an episode, or one of another version.
    """
    return list(iterate_episodes(path, decode))


def iterate_episodes(path: str | Path, decode: Decode | None = None) -> Iterator[Episode]:
    """Read the episodes one by one, for files that do not fit into memory."""
    with _open(Path(path), "r") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                data = json.loads(line.decode("utf-8", "surrogatepass"))
                episode = episode_from_dict(data, decode)
            except ValueError as error:
                raise EpisodeFileError(f"{path}, line {number}: {error}") from error
            yield episode


def _open(path: Path, mode: Literal["r", "w", "a"]) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, mode + "b"))
    return path.open(mode + "b")


def json_line(data: Mapping[str, Any]) -> str:
    """The data as one line of ASCII.

    With JSON's escapes, two adjacent surrogates cannot be told from the one character that they
    form as a pair, so a line that has any is not escaped.
    """
    line = json.dumps(data, ensure_ascii=False)
    return line if _SURROGATE_PAIR.search(line) else json.dumps(data)


def episode_to_dict(episode: Episode) -> dict[str, Any]:
    """The episode as dicts, lists, strings and numbers.

    It does not include the function that decodes tokens, which ``episode_from_dict`` takes as an
    argument. Values in ``task.entry`` that are neither JSON nor Python's built-in containers are
    represented by their ``repr``.
    """
    return {
        "version": VERSION,
        "task": task_to_dict(episode.task),
        "prompt": episode.prompt,
        **_fields(episode, _OUTCOME),
        "turns": [_turn_to_dict(turn) for turn in episode.turns],
        "raw_turns": [_turn_to_dict(turn) for turn in episode.raw_turns],
        "rollbacks": [_record_to_dict(record) for record in episode.rollbacks],
        "stats": asdict(episode.stats),
    }


def task_to_dict(task: Task) -> dict[str, Any]:
    """The task as ``episode_to_dict`` writes it."""
    return {**_fields(task, _TASK), "entry": _plain(task.entry)}


def task_from_dict(data: Mapping[str, Any]) -> Task:
    """Read a task that ``task_to_dict`` wrote."""
    return Task(**{**data, "entry": _original(data["entry"])})


def episode_from_dict(data: Mapping[str, Any], decode: Decode | None = None) -> Episode:
    """Read an episode that ``episode_to_dict`` wrote. Unknown keys are ignored.

    ``decode`` turns token ids into text; it is needed only where the tokens' text is used.

    Raises:
        ValueError: the data has another version, or is not an episode.
    """
    try:
        if data["version"] != VERSION:
            raise ValueError(f"its version is {data['version']!r}; this program reads {VERSION}")
        reader = _Reader(decode or _no_decoder)
        return Episode(
            task=task_from_dict(data["task"]),
            prompt=[dict(message) for message in data["prompt"]],
            turns=[reader.turn(turn) for turn in data["turns"]],
            raw_turns=[reader.turn(turn) for turn in data["raw_turns"]],
            rollbacks=[reader.record(record) for record in data["rollbacks"]],
            **{name: data[name] for name in _OUTCOME},
        )
    except KeyError as error:
        raise ValueError(f"not an episode: {error} is missing") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not an episode: {error}") from error


def _no_decoder(ids: Sequence[int]) -> str:
    raise ValueError("these tokens were read without a decoder; give decode= to the reader")


def _fields(value: object, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def _turn_to_dict(turn: Turn) -> dict[str, Any]:
    parsed = _fields(turn.parsed, (field.name for field in fields(turn.parsed)))
    return {
        **_completion_to_dict(turn.completion),
        "code": parsed.pop("code"),
        "parsed": {name: _plain_text(value) for name, value in parsed.items()},
        **_fields(turn, _TURN),
    }


def _plain_text(value: Any) -> Any:
    """Plain text: where a whole turn is its own reasoning, that is a Completion with tokens."""
    if isinstance(value, tuple):
        return [_plain_text(item) for item in value]
    return str(value) if isinstance(value, str) else value


def _completion_to_dict(completion: Completion) -> dict[str, Any]:
    data: dict[str, Any] = {
        "text": str(completion),
        "truncated": completion.truncated,
        "retry": completion.retry,
    }
    tokens = completion.tokens
    if tokens is not None:
        data["token_ids"] = list(tokens.ids)
        data["logprobs"] = list(tokens.logprobs)
        data["grafted"] = [int(flag) for flag in tokens.grafted]
        data["stop_length"] = tokens.stop_length
    if completion.raw is not completion:
        data["raw"] = _completion_to_dict(completion.raw)
    return data


def _record_to_dict(record: RollbackRecord) -> dict[str, Any]:
    return {
        **_fields(record, (*_RECORD, "error_class", "tokens_discarded")),
        "failed": _turn_to_dict(record.failed),
        "answer": _turn_to_dict(record.answer),
        "purified": None if record.purified is None else _turn_to_dict(record.purified),
    }


class _Reader:
    """Builds turns and records from their data."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode

    def turn(self, data: Mapping[str, Any]) -> Turn:
        parsed = {**data["parsed"], "code": data["code"]}
        for field in fields(ParsedTurn):
            if isinstance(parsed.get(field.name), list):
                parsed[field.name] = tuple(parsed[field.name])
        return Turn(
            completion=self.completion(data),
            parsed=ParsedTurn(**parsed),
            **{name: data[name] for name in _TURN},
        )

    def completion(self, data: Mapping[str, Any]) -> Completion:
        return Completion(
            data["text"],
            self._tokens(data) if "token_ids" in data else None,
            truncated=data["truncated"],
            raw=self.completion(data["raw"]) if "raw" in data else None,
            retry=data["retry"],
        )

    def _tokens(self, data: Mapping[str, Any]) -> Tokens:
        return Tokens(
            ids=tuple(data["token_ids"]),
            logprobs=tuple(data["logprobs"]),
            grafted=tuple(bool(flag) for flag in data["grafted"]),
            decode=self._decode,
            stop_length=data["stop_length"],
        )

    def record(self, data: Mapping[str, Any]) -> RollbackRecord:
        purified = data["purified"]
        return RollbackRecord(
            failed=self.turn(data["failed"]),
            answer=self.turn(data["answer"]),
            purified=None if purified is None else self.turn(purified),
            **{name: data[name] for name in _RECORD},
        )


_TAG = "python"
_CONTAINERS: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}


def _plain(value: Any) -> Any:
    """A value in JSON types; containers that JSON lacks become ``{"python": name, ...}``."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | int | float):
        return value
    if type(value) is list:
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and _TAG not in value:
            return {key: _plain(item) for key, item in value.items()}
        return {_TAG: "dict", "items": [[_plain(k), _plain(v)] for k, v in value.items()]}
    if type(value) in _CONTAINERS.values():
        return {_TAG: type(value).__name__, "items": [_plain(item) for item in value]}
    return {_TAG: "repr", "repr": repr(value)}


def _original(value: Any) -> Any:
    """Undo ``_plain``; a value that was saved as its ``repr`` stays that."""
    if isinstance(value, list):
        return [_original(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_TAG)
    if kind is None:
        return {key: _original(item) for key, item in value.items()}
    if kind == "repr":
        return value["repr"]
    items = [_original(item) for item in value["items"]]
    return dict(items) if kind == "dict" else _CONTAINERS[kind](items)
