"""Bug injectors: small edits that turn a program that runs into one that fails.

The edits, listed in ``bugs.toml``, are slips that language models make. Executing the program
decides whether an edit really makes it fail.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Injector:
    """Yields every edit that it can make to a program, possibly none."""

    each: Sequence[Sequence[str]] = ()
    """Regular expressions, each with the replacements for any of its matches."""
    last: Mapping[str, str] = field(default_factory=dict)
    """Words and pieces of code, each with the replacement for its last occurrence."""

    def __call__(self, code: str) -> Iterator[str]:
        for pattern, *replacements in self.each:
            for match in re.finditer(pattern, code):
                for new in replacements:
                    yield code[: match.start()] + match.expand(new) + code[match.end() :]
        for old, new in self.last.items():
            # A key that is a word is replaced as a whole word only.
            left = r"(?<![\w.])" if old[0].isalpha() else ""
            right = r"\b" if old[-1].isalpha() else ""
            mentions = list(re.finditer(left + re.escape(old) + right, code))
            if mentions:
                yield code[: mentions[-1].start()] + new + code[mentions[-1].end() :]


_TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
INJECTORS = {name: Injector(**table) for name, table in _TABLES.items()}
"""Bug -> its injector."""


def propose_bug(code: str, rng: random.Random) -> tuple[str, str] | None:
    """Make one edit with a random injector that applies: (its name, the edited code), or None."""
    for name in rng.sample(list(INJECTORS), len(INJECTORS)):
        edits = [edit for edit in INJECTORS[name](code) if edit != code]
        if edits:
            return name, rng.choice(edits)
    return None
