"""SourceSpec: what a text such as ``gsm8k:train.jsonl@weight=2,holdout=0.05`` means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

_OPTIONS = re.compile(r"@(?=\w+=)(?P<options>[^@]*)$")
_AND = re.compile(r"\s\+\s")


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One source: ``text`` as it was written, taken apart.

    Attributes:
        kind: before the colon; "" for a path alone.
        place: a path, a hub name, or names of families.
        options: behind the ``@``.
    """

    text: str
    kind: str
    place: str
    options: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str, default: float, low: float = 0.0, high: float = 1.0) -> float:
        """An option's value as a number."""
        text = self.options.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ValueError(
                f"{self.text}: {name} must be a number between {low:g} and {high:g}, not {text!r}"
            )
        return value

    def choice(self, name: str, values: Sequence[str]) -> str:
        """An option's value, one of some; the first of them when it is not given."""
        value = self.options.get(name, values[0])
        if value not in values:
            near = nearest(value, values)
            raise ValueError(
                f"{self.text}: {name} must be one of {list(values)}, not {value!r}{near}"
            )
        return value

    def allow(self, names: Sequence[str]) -> None:
        """Raise ValueError for an option that is none of these."""
        unknown = sorted(set(self.options) - set(names))
        if unknown:
            near = nearest(unknown[0], names)
            raise ValueError(f"{self.text}: unknown options {unknown}; use {sorted(names)}{near}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that says which of the known names may be meant; empty if none is
    near."""
    near = get_close_matches(name, list(known), n=1)
    return f". Did you mean {near[0]!r}?" if near else ""


def split_specs(specs: str | Sequence[str]) -> list[SourceSpec]:
    """Every source of a text with `` + `` between them, or of a list of texts."""
    texts = [specs] if isinstance(specs, str) else list(specs)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"task sources are texts such as 'gsm8k:PATH@weight=2', not {specs!r}")
    parts = [part.strip() for text in texts for part in _AND.split(text)]
    if not parts or not all(parts):
        raise ValueError(f"{specs!r} names no tasks, or leaves a source empty beside a +")
    return [read_spec(part) for part in parts]


def read_spec(text: str) -> SourceSpec:
    """``KIND:PLACE@OPTION=VALUE,OPTION=VALUE``; the kind and the options may be left out."""
    found = _OPTIONS.search(text)
    source = text[: found.start()] if found else text
    kind, colon, place = source.partition(":")
    if not colon or not re.fullmatch(r"[\w-]+", kind) or place.startswith("//"):
        is_path = "/" in source or "." in source
        kind, place = ("", source) if is_path else (source, "")
    options: dict[str, str] = {}
    for item in found["options"].split(",") if found else ():
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value or name in options:
            raise ValueError(f"{text}: options are NAME=VALUE, each once, not {item!r}")
        options[name] = value
    return SourceSpec(text, kind.strip(), place.strip(), options)
