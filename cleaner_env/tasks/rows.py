"""Rows: what JSON lines, JSON, CSV, parquet, directories and hub data sets have in common."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HUB = "hf://"
"""What the place of a data set on the Hugging Face hub begins with."""
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Row:
    """The values of one row by column, and ``where`` it stands, for errors."""

    where: str
    values: Mapping[str, Any]

    def get(self, *columns: str, default: Any = None) -> Any:
        """The first of these columns that the row has a value in; case does not matter.

        A column with dots, ``extra_info.answer``, reaches into mappings.
        """
        for column in columns:
            value = self._find(column)
            if value is not _MISSING and value is not None:
                return value
        return default

    def need(self, *columns: str) -> Any:
        """As ``get``, but ValueError where the row has none of them."""
        value = self.get(*columns, default=_MISSING)
        if value is _MISSING:
            wanted = " or ".join(map(repr, columns))
            raise ValueError(f"no value in column {wanted}; the row has {list(self.values)}")
        return value

    def text(self, *columns: str) -> str:
        """As ``need``, as text; ValueError where it is neither text nor a number."""
        value = self.need(*columns)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"column {columns[0]!r} must be text or a number, not {value!r:.200}")
        return str(value).strip()

    def _find(self, column: str) -> Any:
        if column in self.values:
            return self.values[column]
        value: Any = self.values
        for part in column.split("."):
            if not isinstance(value, Mapping):
                return _MISSING
            keys = {str(key).lower(): key for key in value}
            if part.lower() not in keys:
                return _MISSING
            value = value[keys[part.lower()]]
        return value


def read_rows(place: str, config: str = "", hub_split: str = "train") -> Iterator[Row]:
    """The rows of a data set.

    Args:
        place: a file with one of ``SUFFIXES``; a directory, or ``hf://NAME`` for the hub, which
            both need the package ``datasets``.
        config: configuration of a data set on the hub.
        hub_split: which of its splits.
    """
    if place.startswith(HUB) or Path(place).is_dir():
        yield from _dataset_rows(place, config, hub_split)
        return
    path = Path(place)
    suffix = next((s for s in sorted(SUFFIXES, key=len)[::-1] if path.name.endswith(s)), "")
    if not suffix:
        raise ValueError(f"cannot read tasks from {place}: its name must end in one of {SUFFIXES}")
    readers = {".csv": _csv_rows, ".parquet": _parquet_rows, ".json": _json_rows}
    try:
        yield from readers.get(suffix, _jsonl_rows)(path)
    except (OSError, UnicodeDecodeError, EOFError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot read tasks from {place}: {error}") from error


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        # Lines of bytes: U+2028 and its like are allowed inside a JSON string.
        for number, line in enumerate(file, start=1):
            where = f"{path}, row {number}"
            line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            yield _row(where, values)


def _json_rows(path: Path) -> Iterator[Row]:
    rows = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold a list of objects; for one a line use .jsonl")
    for number, values in enumerate(rows, start=1):
        yield _row(f"{path}, row {number}", values)


def _csv_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(1 << 30)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for number, values in enumerate(reader, start=1):
                where = f"{path}, row {number} (line {reader.line_num})"
                if None in values or None in values.values():
                    raise ValueError(f"{where}: {len(reader.fieldnames or ())} fields expected")
                yield Row(where, {key: value or None for key, value in values.items()})
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            f"reading {path} needs pyarrow: pip install -e '.[data]' (or pip install pyarrow)"
        ) from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}, row {number}", values)
    except pyarrow.ArrowException as error:
        raise ValueError(f"cannot read tasks from {path} after row {number}: {error}") from error


def _dataset_rows(place: str, config: str, hub_split: str) -> Iterator[Row]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"reading {place} needs the package datasets: pip install -e '.[data]'"
        ) from error
    name = place.removeprefix(HUB)
    try:
        loaded = datasets.load_dataset(name, config or None, split=hub_split)
    # What it raises depends on the data set, the network and the version.
    except Exception as error:
        raise ValueError(
            f"datasets cannot load {name!r} (config={config or None}, split={hub_split!r}): {error}"
        ) from error
    for number, values in enumerate(loaded, start=1):
        yield Row(f"{place} ({hub_split}), row {number}", values)


def _row(where: str, values: Any) -> Row:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: a row must be a JSON object, not {values!r:.80}")
    return Row(where, values)
