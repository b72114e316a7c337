"""Books: which programs there are for the problems of a ``--tasks`` value."""

from __future__ import annotations

from collections.abc import Mapping

from cleaner_rl.sft.demonstrations.family import Programs
from cleaner_rl.sft.demonstrations.gsm8k import Gsm8kPrograms, read_solutions
from cleaner_rl.sft.demonstrations.more_programs import MORE_PROGRAMS
from cleaner_rl.sft.demonstrations.programs import PROGRAM_BOOK

__all__ = ["books_for", "describe_gsm8k"]


def describe_gsm8k(books: Mapping[str, Programs]) -> str:
    """What became of GSM8K's solutions, for people."""
    programs = books.get("gsm8k")
    if not isinstance(programs, Gsm8kPrograms):
        return "no GSM8K among --tasks, reasoning-gym only; add it with 'gsm8k:FILE + ...'"
    return f"GSM8K: {len(programs.steps)} of {programs.solutions} solutions give a program"


def books_for(tasks: str) -> dict[str, Programs]:
    """Programs by family: those of reasoning-gym's families, and of every ``gsm8k:`` source.

    Args:
        tasks: a ``--tasks`` value.

    Raises:
        ValueError: a file of it cannot be read.
    """
    books: dict[str, Programs] = {**PROGRAM_BOOK, **MORE_PROGRAMS}
    solutions = read_solutions(tasks)
    if solutions:
        books["gsm8k"] = Gsm8kPrograms.of(solutions)
    return books
