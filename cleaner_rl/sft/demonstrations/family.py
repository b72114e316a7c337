"""FamilyPrograms: programs for the questions of one family, from templates.

A template is Python source with ``$name`` fields, filled from the question by the family's regular
expression.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Protocol

__all__ = ["FamilyPrograms", "Programs", "Variant"]


@dataclass(frozen=True)
class Variant:
    """One program for one question. ``right`` is the book's intention; execution decides."""

    code: str
    right: bool


class Programs(Protocol):
    """Where the programs for a kind of question come from."""

    @property
    def sentences(self) -> Sequence[str]:
        """Openings that go with every program, right or wrong: they give nothing away."""
        ...

    @property
    def longest_answer(self) -> int:
        """Characters that a program may print and still be taken for an answer."""
        ...

    def knows(self, question: str) -> bool:
        """True for a question that there are programs for."""
        ...

    def draw(self, question: str, rng: random.Random, *, right: bool) -> Variant:
        """One program for a question that is known."""
        ...


@dataclass(frozen=True)
class FamilyPrograms:
    """Everything the demonstrations need to know about one family."""

    question: str
    """Regular expression whose named groups are the fields of the templates."""
    sentences: tuple[str, ...]
    """Openings that go with every program of the family, right or wrong: they give nothing away."""
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    extend: Callable[[dict[str, str]], dict[str, str]] | None = None
    """Derives further fields from the matched ones, such as a list of signed terms."""
    longest_answer: int = 40
    """Characters that a program may print and still be taken for an answer."""

    def knows(self, question: str) -> bool:
        """True for a question that there are programs for."""
        try:
            return bool(self.fields(question))
        except ValueError:
            return False

    def fields(self, question: str) -> Mapping[str, str]:
        """The template fields of a question; ValueError when it is not of this family."""
        match = re.search(self.question, question)
        if match is None:
            raise ValueError(
                f"question does not match the family's pattern {self.question!r}: {question!r}"
            )
        fields = {name: value.strip() for name, value in match.groupdict().items()}
        return self.extend(fields) if self.extend else fields

    def variants(self, question: str, *, right: bool) -> list[Variant]:
        """All programs for a question that the book believes to be right (or wrong)."""
        fields = self.fields(question)
        templates = self.right if right else self.wrong
        return [Variant(Template(text).substitute(fields), right) for text in templates]

    def draw(self, question: str, rng: random.Random, *, right: bool) -> Variant:
        """One of `variants`, the plain ones at the head of the list more often."""
        variants = self.variants(question, right=right)
        weights = [1 / (2 + rank) for rank in range(len(variants))]
        return rng.choices(variants, weights)[0]
