"""Files that survive a kill: written whole or not at all, or JSON lines with the last cut off."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cleaner_rl.errors import CheckpointError

Row = dict[str, Any]


def partial_path(path: Path) -> Path:
    """The hidden path next to a file or directory where it is written until it is complete."""
    return path.with_name(f".{path.name}.partial")


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file, whole or not at all."""
    partial = partial_path(path)
    partial.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
    os.replace(partial, path)


@contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """A directory to fill inside the block, which gets its name at the end, or is removed."""
    partial = partial_path(directory)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        put_in_place(partial, directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def put_in_place(partial: Path, directory: Path) -> None:
    """Give a completed directory its name, replacing any other of that name."""
    for file in partial.rglob("*"):
        if file.is_file():
            _sync(file)
    replaced = _replaced_path(directory)
    shutil.rmtree(replaced, ignore_errors=True)
    if directory.exists():
        os.replace(directory, replaced)
    os.replace(partial, directory)
    _sync(directory.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def restore_replaced(directory: Path) -> None:
    """Undo a ``put_in_place`` that was killed between its two renames."""
    if not directory.exists() and _replaced_path(directory).is_dir():
        os.replace(_replaced_path(directory), directory)


def _replaced_path(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.replaced")


@contextmanager
def writing(path: Path, remedy: str = "free some space") -> Iterator[Path]:
    """Turn the ``OSError`` of a block that writes ``path`` into a ``CheckpointError``."""
    try:
        yield path
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error}; {remedy}") from error


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_whole(path, json.dumps(data, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; None if it does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def append_row(path: Path, row: Row) -> None:
    """Append a row to a file of JSON lines."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def read_rows(path: Path, repair: bool = False) -> Iterator[Row]:
    """Read the rows of a file of JSON lines; a missing file has none.

    A last line without a line break was cut short by a kill or is still being written. It is left
    out; ``repair`` also removes it from the file, so that rows can be appended.
    """
    if not path.exists():
        return
    whole = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("not an object")
            except ValueError as error:
                raise CheckpointError(
                    f"{path}, line {number}, is damaged: {error}; remove that line"
                ) from error
            whole += len(line)
            yield row
    if repair and whole < path.stat().st_size:
        os.truncate(path, whole)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
