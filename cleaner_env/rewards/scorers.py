"""Scorers: how the answers to each kind of task are found in a turn and scored."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from string import ascii_uppercase
from types import MappingProxyType
from typing import Any

from cleaner_env.rewards.code_tests import check_tests, code_score
from cleaner_env.rewards.equivalence import equivalent, text_key, unwrapped
from cleaner_env.rewards.extraction import extract_boxed, extract_code
from cleaner_env.rewards.notation import plain
from cleaner_env.task import Task
from sandbox.judge import Runner


@dataclass(frozen=True, slots=True)
class Scorer:
    """How the answers to one kind of task are found and scored.

    Attributes:
        score: maps an answer, the task and what runs programs to a score in [0, 1]; 1 is right.
        extract: finds the answer in the text of the last turn; None if there is none.
        check: raises ValueError if the task cannot be scored.
        runs_programs: whether scoring needs a sandbox.
    """

    score: Callable[[str, Task, Runner | None], float]
    extract: Callable[[str], str | None] = extract_boxed
    check: Callable[[Task], object] = lambda task: None
    runs_programs: bool = False


def exact_score(answer: str, task: Task, runner: Runner | None = None) -> float:
    """1.0 if the answer is the reference, apart from spaces at its ends."""
    return float(answer.strip() == task.answer.strip())


def math_score(answer: str, task: Task, runner: Runner | None = None) -> float:
    """1.0 if the answer equals the reference, or one of ``entry["answers"]``."""
    references = task.entry.get("answers") or [task.answer]
    return float(any(equivalent(reference, answer) for reference in references))


_CHOSEN = re.compile(
    r"""(?:(?:i\ think|i\ choose|so|thus)\s+)?(?:it\ is\s+)?(?:the\s+)?
    (?:(?:correct\s+|right\s+|final\s+)?(?:answer|option|choice)\s*(?:is|:)?\s*)?(?:(?:option|choice)\s+)?
    (?:[(\[]\s*([A-Z])\s*[)\]][.:]?|([A-Z])\s*(?:[).:\]]|\s-(?=\s)|(?=$)|(?=\s+is\b)))
    \s*(?:is\s+(?:the\s+)?(?:correct|right)(?:\s+(?:answer|option|choice))?[.\s]*$)?(.*)""",
    re.IGNORECASE | re.VERBOSE,
)
"""A letter in brackets or before a mark, and the text that may follow."""
_ANOTHER = re.compile(r"\W*(?:and|or)?\W*[A-Z](?![a-z])\W*", re.IGNORECASE)


def choice_score(answer: str, task: Task, runner: Runner | None = None) -> float:
    r"""1.0 if the answer chooses the right letter.

    An answer chooses by a letter (``B``, ``(b)``, ``B.``, ``\text{B}``, ``B) 4 m/s``, ``Option B``)
    or by the text of a choice in ``entry["choices"]``, whose order is that of the letters. Prose
    chooses nothing, even if it begins with a letter: ``a larger volume``, ``A and C``.
    """
    choices = [_choice_key(str(choice)) for choice in task.entry.get("choices", ())]
    text = _choice_key(answer)
    if choices.count(text) == 1:
        letter = ascii_uppercase[choices.index(text)]
    else:
        chosen = _CHOSEN.fullmatch(unwrapped(plain(answer)))
        if chosen is None or _ANOTHER.fullmatch(chosen[3]):
            return 0.0
        letter = (chosen[1] or chosen[2]).upper()
        said = _choice_key(chosen[3])
        if said in choices and ascii_uppercase[choices.index(said)] != letter:
            return 0.0
    return float(letter == task.answer.strip().upper())


def _choice_key(text: str) -> str:
    """The same for texts that differ only in articles, spaces, capital letters or decoration."""
    return text_key(re.sub(r"\b(?:an?|the)\s+", "", unwrapped(plain(text)), flags=re.IGNORECASE))


def _check_choice(task: Task) -> None:
    if not re.fullmatch(r"\s*[A-Za-z]\s*", task.answer):
        raise ValueError(f"the answer of a choice task must be a letter, not {task.answer!r}")


def reasoning_gym() -> Any:
    """The package, imported only when its tasks are drawn or scored, since that takes two seconds.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return import_module("reasoning_gym")
    except ModuleNotFoundError as error:
        if error.name != "reasoning_gym":
            raise
        raise ValueError(
            "tasks from reasoning-gym need that package: pip install -e '.[tasks]', which takes a "
            "C compiler; tasks='builtin' needs no package"
        ) from error


@cache
def reasoning_gym_scorer(family: str) -> Callable[[str | None, Mapping[str, Any]], float]:
    """reasoning-gym's own scorer of a family: it maps an answer and an entry to [0, 1]."""
    package = reasoning_gym()
    try:
        scorer: Callable[[str | None, Mapping[str, Any]], float]
        scorer = package.get_score_answer_fn(family)
    except ValueError as error:
        raise ValueError(f"reasoning-gym has no family {family!r}") from error
    return scorer


def reasoning_gym_score(answer: str, task: Task, runner: Runner | None = None) -> float:
    """The score that reasoning-gym's own scorer of the family gives.

    Some of its scorers raise an exception for an answer that they cannot read; such an answer is
    wrong.
    """
    scorer = reasoning_gym_scorer(task.family)
    try:
        return float(scorer(answer, task.entry))
    except Exception:
        return 0.0


SCORERS: Mapping[str, Scorer] = MappingProxyType(
    {
        "choice": Scorer(choice_score, check=_check_choice),
        "code": Scorer(code_score, extract_code, check_tests, runs_programs=True),
        "exact": Scorer(exact_score),
        "math": Scorer(math_score),
        "reasoning_gym": Scorer(
            reasoning_gym_score, check=lambda task: reasoning_gym_scorer(task.family)
        ),
    }
)
"""Scorers by their name in ``Task.reward``."""


def check_reward(task: Task, scorers: Mapping[str, Scorer] = SCORERS) -> None:
    """Raise ValueError if the task's answers cannot be scored."""
    if task.reward not in scorers:
        raise ValueError(f"unknown reward {task.reward!r}; use one of {sorted(scorers)}")
    scorers[task.reward].check(task)


def score(answer: str, task: Task, runner: Runner | None = None) -> float:
    """The score in [0, 1] that the task's scorer gives to an answer, as its ``extract`` found it.

    The code reward runs programs in ``runner``, a sandbox; the other rewards need none.

    Raises:
        GraderError: math-verify cannot be run at all.
        sandbox.SandboxError: the sandbox failed.
    """
    check_reward(task)
    return SCORERS[task.reward].score(answer, task, runner)
