"""Layouts: how the rows of a published data set become tasks."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cleaner_env.rewards.extraction import extract_boxed
from cleaner_env.task import Task
from cleaner_env.tasks.rows import Row
from cleaner_env.tasks.spec import SourceSpec


@dataclass(frozen=True, slots=True)
class Layout:
    """What is known of a kind of data set.

    Attributes:
        read: a row, the spec and a seed in; a task out, None to leave the row out. Raises
            ValueError for a row that it cannot read.
        options: options of a spec that it understands, beside those of every source.
        holdout: share of its tasks in the test split, unless the spec says otherwise; 1 for
            benchmarks, which nobody should train on by accident.
        place: where its file is found when the spec names none; raises ValueError when it cannot.
    """

    read: Callable[[Row, SourceSpec, int], Task | None]
    options: tuple[str, ...] = ()
    holdout: float = 0.1
    place: Callable[[], str] | None = None


def read_columns(row: Row, spec: SourceSpec, seed: int) -> Task:
    """Any columns: ``@prompt=question,answer=solution.final,reward=exact,family=algebra``.

    Without a mapping a row is a task's own mapping, ``{"prompt": ..., "answer": ...}``.
    """
    mapped = {"prompt", "answer", "reward", "family"} & set(spec.options)
    if not mapped:
        rate = spec.options.get("rate", "").partition(".")[0]
        try:
            return Task.parse({key: row.values[key] for key in row.values if key != rate})
        except ValueError as error:
            raise ValueError(f"{error}; name other columns with @prompt=...,answer=...") from error
    return Task(
        prompt=row.text(spec.options.get("prompt", "prompt")),
        answer=row.text(spec.options.get("answer", "answer")),
        family=spec.options.get("family", "custom"),
        reward=spec.options.get("reward", "math"),
    )


def read_gsm8k(row: Row, spec: SourceSpec, seed: int) -> Task:
    """GSM8K: question, and an answer whose last line is ``#### 72``."""
    solution = row.text("answer")
    _, mark, answer = solution.rpartition("####")
    if not mark or not answer.strip():
        raise ValueError("the answer has no line '#### RESULT'")
    return Task(row.text("question"), answer.strip(), "gsm8k")


def read_math(row: Row, spec: SourceSpec, seed: int) -> Task:
    r"""MATH and its like: problem, and an answer or a solution with ``\boxed{}``."""
    answer = row.get("answer", "final_answer")
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        answer = extract_boxed(row.text("solution"))
        if answer is None:
            raise ValueError(r"no column 'answer', and no complete \boxed{} in the solution")
    family = str(row.get("type", "subject", default="math"))
    level = row.get("level")
    entry = {} if level is None else {"difficulty": str(level).removeprefix("Level ")}
    return Task(row.text("problem", "question"), str(answer).strip(), family, entry=entry)


def read_aime(row: Row, spec: SourceSpec, seed: int) -> Task:
    """AIME 2024 and 2025 in their usual layouts: problem or question, and an integer answer."""
    answer = row.text("answer").removesuffix(".0")
    if not re.fullmatch(r"\d{1,3}", answer):
        raise ValueError(f"an AIME answer is an integer from 0 to 999, not {answer!r}")
    return Task(row.text("problem", "question"), answer, "aime")


def read_gpqa(row: Row, spec: SourceSpec, seed: int) -> Task:
    """GPQA as published: a question, the correct and three incorrect answers, in shuffled order."""
    right = row.text("Correct Answer")
    choices = [right, *(row.text(f"Incorrect Answer {number}") for number in (1, 2, 3))]
    question = row.text("Question")
    random.Random(f"{seed}/{question}").shuffle(choices)
    lines = [f"{letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=True)]
    prompt = "\n".join([question, "", *lines, "", "Answer with the letter of the right choice."])
    return Task(
        prompt,
        "ABCD"[choices.index(right)],
        str(row.get("High-level domain", default="gpqa")),
        "choice",
        {"choices": choices},
    )


def read_asdiv(row: Row, spec: SourceSpec, seed: int) -> Task:
    """ASDiv: body and question, and an answer with its unit, ``9 (apples)``."""
    answer = re.sub(r"\s+\([^()]*\)\s*$", "", row.text("answer"))
    return Task(f"{row.text('body')} {row.text('question')}", answer, "asdiv")


def read_mawps(row: Row, spec: SourceSpec, seed: int) -> Task:
    """MAWPS: input and target."""
    return Task(row.text("input", "question"), row.text("target", "answer"), "mawps")


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "": Layout(read_columns, ("prompt", "answer", "reward", "family")),
        "rows": Layout(read_columns, ("prompt", "answer", "reward", "family")),
        "gsm8k": Layout(read_gsm8k),
        "math": Layout(read_math),
        "aime": Layout(read_aime, holdout=1.0),
        "gpqa": Layout(read_gpqa, holdout=1.0),
        "asdiv": Layout(read_asdiv),
        "mawps": Layout(read_mawps),
    }
)
"""Layouts of questions with a short answer, by kind."""
