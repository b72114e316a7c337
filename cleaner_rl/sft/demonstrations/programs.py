"""Programs for the questions of task families: right ones, and wrong ones that run all the same.

A family's programs are templates in ``templates/*.toml``, separated by blank lines, the plain ones
first. Their ``$name`` fields are the named groups of the family's ``question`` (a regular
expression, whose line breaks are ignored) and fields that a function below derives from these.
Whether a program is really right is not decided here: it is executed and its output scored.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from cleaner_rl.sft.demonstrations.gsm8k import Gsm8kPrograms, read_solutions

Fields = dict[str, str]


@dataclass(frozen=True)
class FamilyPrograms:
    """The programs of one family, from its table in ``templates/``."""

    question: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    derive: Callable[[Fields], Fields]
    sentences: Sequence[str]
    """Openings that suit every program, right or wrong, so that they give nothing away."""
    longest_answer: int = 40
    """The most characters that a program may print for an answer."""

    def knows(self, question: str) -> bool:
        """Whether there are programs for a question."""
        try:
            return bool(self.fields(question))
        except ValueError:
            return False

    def fields(self, question: str) -> Fields:
        """The template fields of a question; ValueError if it is not of this family."""
        match = re.search(self.question, question)
        if match is None:
            raise ValueError(
                f"question does not match the family's pattern {self.question!r}: {question!r}"
            )
        fields = {name: value.strip() for name, value in match.groupdict().items()}
        return {**fields, **self.derive(fields)}

    def programs(self, question: str, *, right: bool) -> list[str]:
        """All programs for a question that are meant to be right, or wrong."""
        fields = self.fields(question)
        return [Template(text).substitute(fields) for text in (self.right if right else self.wrong)]

    def draw(self, question: str, rng: random.Random, *, right: bool) -> str:
        """Draw one of ``programs``, preferring those at the head of the list."""
        programs = self.programs(question, right=right)
        weights = [1 / (2 + rank) for rank in range(len(programs))]
        return rng.choices(programs, weights)[0]


Programs = FamilyPrograms | Gsm8kPrograms
"""A source of programs for one kind of question."""
ProgramBook = Mapping[str, Programs]
"""Family -> its programs."""


def _chain(fields: Fields) -> Fields:
    """The terms with and without their signs, and the sum with its last sign flipped."""
    pieces = fields["expr"].split(" ")
    signs, numbers = pieces[1::2], pieces[0::2]
    flipped = [*pieces[:-2], "+" if pieces[-2] == "-" else "-", pieces[-1]]
    signed = zip(["+", *signs], numbers, strict=True)
    return {
        "terms": ", ".join(number if sign == "+" else f"-{number}" for sign, number in signed),
        "bare": ", ".join(numbers),
        "decimals": _as_decimals(pieces),
        "flipped_decimals": _as_decimals(flipped),
        "flipped": " ".join(flipped),
    }


def _as_decimals(pieces: list[str]) -> str:
    """An expression of exact decimals from alternating numbers and signs."""
    return " ".join(piece if piece in "+-" else f'Decimal("{piece}")' for piece in pieces)


def _arithmetic(fields: Fields) -> Fields:
    """The expression with its first operator replaced by another one."""
    other = {"+": "-", "-": "+", "*": "+"}
    return {"flipped": re.sub(r"[-+*]", lambda match: other[match[0]], fields["expr"], count=1)}


def _equation(fields: Fields) -> Fields:
    """The left side of the equation in terms of x, whatever the question calls the unknown."""
    return {"left": re.sub("[a-z]", "x", fields["left"])}


def _bases(fields: Fields) -> Fields:
    """Bases as numbers; reasoning-gym writes base 2 and base 16 as words."""
    named = {"binary": "2", "hexadecimal": "16"}
    bases = {key: fields[key].removeprefix("base-") for key in ("source", "target")}
    return {key: named.get(base, base) for key, base in bases.items()}


_LEGS_OF = tomllib.loads(Path(__file__).with_name("legs.toml").read_text("utf-8"))


def _legs(fields: Fields) -> Fields:
    """Sums and tables of the animals; reasoning-gym forms every plural with an s."""
    counts = {}
    for item in fields["animals"].split(", "):
        count, _, animal = item.partition(" ")
        counts[animal if count == "1" else animal.removesuffix("s")] = count
    unknown = sorted(set(counts) - set(_LEGS_OF))
    if unknown:
        raise ValueError(f"nobody knows how many legs these have: {unknown}")
    names = {animal: animal.replace(" ", "_") for animal in counts}
    legs = {animal: f"{count} * {_LEGS_OF[animal]}" for animal, count in counts.items()}
    return {
        "sum": " + ".join(legs.values()),
        "lines": "\n".join(f"{names[animal]} = {legs[animal]}" for animal in counts),
        "names": " + ".join(names.values()),
        "counts": ", ".join(f'"{animal}": {count}' for animal, count in counts.items()),
        "legs": ", ".join(f'"{animal}": {_LEGS_OF[animal]}' for animal in counts),
        "heads": " + ".join(counts.values()),
    }


def _filter(fields: Fields) -> Fields:
    """The comparison that holds for the numbers to keep, and its mirror image."""
    strict, other = ("<", ">") if fields["side"] == "smaller" else (">", "<")
    if fields["what"] == "Keep":
        return {"kept": strict, "mirror": other}
    return {"kept": f"{other}=", "mirror": f"{strict}="}


def _sort(fields: Fields) -> Fields:
    """The arguments of ``sort`` and ``sorted`` for the requested order, and for its reverse."""
    if fields["order"] == "descending":
        return {"how": "reverse=True", "also": ", reverse=True", "flipped": ""}
    return {"how": "", "also": "", "flipped": ", reverse=True"}


_TIMES = {
    "HH:MM": (
        "%H:%M",
        'minutes = (end - start).seconds // 60\nprint(f"{minutes // 60:02}:{minutes % 60:02}")',
    ),
    "HH:MM:SS": (
        "%H:%M:%S",
        "seconds = (end - start).seconds\n"
        'print(f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}")',
    ),
}
"""Form of an answer -> form of the times in the question, and lines that print the answer."""


def _times(fields: Fields) -> Fields:
    """The form of the times, and the lines that print their difference."""
    form, lines = _TIMES[fields["form"]]
    if len(fields["start"]) != len(fields["form"]):
        raise ValueError(f"the times are not written as {fields['form']}: {fields['start']}")
    return {"pattern": form, "show": lines}


_DERIVE: dict[str, Callable[[Fields], Fields]] = {
    "chain_sum": _chain,
    "decimal_chain_sum": _chain,
    "basic_arithmetic": _arithmetic,
    "simple_equations": _equation,
    "base_conversion": _bases,
    "leg_counting": _legs,
    "number_filtering": _filter,
    "number_sorting": _sort,
    "time_intervals": _times,
}
"""Family -> the fields of its templates that are not groups of its regular expression."""


def _read_book() -> dict[str, FamilyPrograms]:
    book = {}
    for path in sorted(Path(__file__).with_name("templates").glob("*.toml")):
        for family, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
            question = table.pop("question").replace("\n", "")
            right, wrong = (tuple(table.pop(k).strip().split("\n\n")) for k in ("right", "wrong"))
            derive = _DERIVE.get(family, dict)
            book[family] = FamilyPrograms(question, right, wrong, derive, **table)
    return book


PROGRAM_BOOK: Mapping[str, FamilyPrograms] = _read_book()
"""Family -> its programs: the families of the bundled policy, and those of ``words.toml``."""


def program_book(tasks: str) -> ProgramBook:
    """The programs for a ``--tasks`` value: all families, and its own ``gsm8k:`` sources."""
    solutions = read_solutions(tasks)
    return {**PROGRAM_BOOK, "gsm8k": Gsm8kPrograms.of(solutions)} if solutions else PROGRAM_BOOK
