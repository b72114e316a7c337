"""Files of episodes: JSON lines, one episode a line, as sampled and purified; gzip for ``.gz``."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, cast

from cleaner_env.completion import Decode
from cleaner_env.episode import Episode
from cleaner_env.episode_io import episode_from_dict

_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


class EpisodeFileError(ValueError):
    """A file of episodes cannot be read; the message names the file and the line."""


def write_episodes(path: str | Path, episodes: Iterable[Episode], *, append: bool = False) -> None:
    """Write episodes to a file, or add them to its end.

    Raises:
        OSError: the file cannot be written.
    """
    with _open(Path(path), "a" if append else "w") as stream:
        for episode in episodes:
            line = json_line(episode.to_dict()) + "\n"
            stream.write(line.encode("utf-8", "surrogatepass"))


def read_episodes(path: str | Path, decode: Decode | None = None) -> list[Episode]:
    """The episodes of a file. Empty lines are skipped.

    Args:
        path: the file.
        decode: turns token ids into text; without it the tokens' ids, log-probabilities and flags
            are there, and their text is not.

    Raises:
        OSError: there is no such file.
        EpisodeFileError: a line is not an episode, or is one of another version.
    """
    return list(iterate_episodes(path, decode))


def iterate_episodes(path: str | Path, decode: Decode | None = None) -> Iterator[Episode]:
    """The same one by one, for files that do not fit into memory."""
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
    """The data in one line of ASCII.

    JSON's escapes cannot keep two surrogates in a row apart from the one character that they would
    be as a pair, so a line that has such is not escaped.
    """
    line = json.dumps(data, ensure_ascii=False)
    return line if _SURROGATE_PAIR.search(line) else json.dumps(data)
