"""Scorers: what finds the answer of a kind of task in a turn, and compares it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any

from cleaner_env.rewards.code_tests import check_tests, code_score
from cleaner_env.rewards.equivalence import equivalent, same_text, unwrapped
from cleaner_env.rewards.extraction import extract_boxed, extract_code
from cleaner_env.rewards.notation import plain
from cleaner_env.task import Task
from sandbox.judge import Runner


def _nothing_to_check(task: Task) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Scorer:
    """How the answers of a kind of task are found and scored.

    Attributes:
        score: answer, task and what runs programs in; score in [0, 1] out, 1 is right.
        extract: the last turn's text in; the answer out, None without one.
        check: raises ValueError when a task cannot be scored.
        runs_programs: the scorer needs a sandbox.
    """

    score: Callable[[str, Task, Runner | None], float]
    extract: Callable[[str], str | None] = extract_boxed
    check: Callable[[Task], None] = _nothing_to_check
    runs_programs: bool = False


def exact_score(answer: str, task: Task, runner: Runner | None = None) -> float:
    """1.0 when the answer is the reference, spaces at both ends aside."""
    return float(answer.strip() == task.answer.strip())


def math_score(answer: str, task: Task, runner: Runner | None = None) -> float:
    """1.0 when the answer equals the reference, or one of ``entry["answers"]``."""
    references = task.entry.get("answers") or [task.answer]
    return float(any(equivalent(reference, answer) for reference in references))


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CHOSEN = re.compile(
    r"""(?:(?:i\ think|i\ choose|so|thus)\s+)?(?:it\ is\s+)?(?:the\s+)?
    (?:(?:correct\s+|right\s+|final\s+)?(?:answer|option|choice)\s*(?:is|:)?\s*)?(?:(?:option|choice)\s+)?
    (?:[(\[]\s*([A-Z])\s*[)\]][.:]?|([A-Z])\s*(?:[).:\]]|\s-(?=\s)|(?=$)|(?=\s+is\b)))
    \s*(?:is\s+(?:the\s+)?(?:correct|right)(?:\s+(?:answer|option|choice))?[.\s]*$)?(.*)""",
    re.IGNORECASE | re.VERBOSE,
)
"""A letter, in brackets or with a mark behind it, and the text that may follow."""
_ANOTHER = re.compile(r"\W*(?:and|or)?\W*[A-Z](?![a-z])\W*", re.IGNORECASE)


def choice_score(answer: str, task: Task, runner: Runner | None = None) -> float:
    r"""1.0 when the answer is the letter of the right choice.

    Read are ``B``, ``(b)``, ``B.``, ``\text{B}``, ``B) 4 m/s`` and ``Option B``, or the text of a
    choice (``entry["choices"]``, in the order of their letters), an article more or less. Prose is
    not read for its first letter: ``a larger volume`` and ``A and C`` choose nothing.
    """
    choices = [_choice_key(str(choice)) for choice in task.entry.get("choices", ())]
    text = _choice_key(answer)
    if choices.count(text) == 1:
        letter = _LETTERS[choices.index(text)]
    else:
        chosen = _CHOSEN.fullmatch(unwrapped(plain(answer)))
        if chosen is None or _ANOTHER.fullmatch(chosen[3]):
            return 0.0
        letter = (chosen[1] or chosen[2]).upper()
        said = _choice_key(chosen[3])
        if said in choices and _LETTERS[choices.index(said)] != letter:
            return 0.0
    return float(letter == task.answer.strip().upper())


def _choice_key(text: str) -> str:
    """A choice's text without what does not tell it from others: articles, spaces, capitals."""
    return same_text(re.sub(r"\b(?:an?|the)\s+", "", unwrapped(plain(text)), flags=re.IGNORECASE))


def _check_choice(task: Task) -> None:
    if not re.fullmatch(r"\s*[A-Za-z]\s*", task.answer):
        raise ValueError(f"the answer of a choice task must be a letter, not {task.answer!r}")


def reasoning_gym() -> Any:
    """The package. It takes two seconds to import: only when its tasks are really drawn or scored.

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
    """reasoning-gym's own scorer of a family: answer and entry in, score in [0, 1] out."""
    package = reasoning_gym()
    try:
        scorer: Callable[[str | None, Mapping[str, Any]], float]
        scorer = package.get_score_answer_fn(family)
    except ValueError as error:
        raise ValueError(f"reasoning-gym has no family {family!r}") from error
    return scorer


def reasoning_gym_score(answer: str, task: Task, runner: Runner | None = None) -> float:
    """The score that reasoning-gym's own scorer of the family gives.

    Some of its scorers raise at an answer that they cannot read; such an answer is wrong.
    """
    scorer = reasoning_gym_scorer(task.family)
    try:
        return float(scorer(answer, task.entry))
    except Exception:
        return 0.0


def _check_family(task: Task) -> None:
    reasoning_gym_scorer(task.family)


SCORERS: Mapping[str, Scorer] = MappingProxyType(
    {
        "choice": Scorer(choice_score, check=_check_choice),
        "code": Scorer(code_score, extract_code, check_tests, runs_programs=True),
        "exact": Scorer(exact_score),
        "math": Scorer(math_score),
        "reasoning_gym": Scorer(reasoning_gym_score, check=_check_family),
    }
)
"""Scorers by the name that ``Task.reward`` gives."""


def check_reward(task: Task, scorers: Mapping[str, Scorer] = SCORERS) -> None:
    """Raise ValueError when the task's answers cannot be scored."""
    if task.reward not in scorers:
        raise ValueError(f"unknown reward {task.reward!r}; use one of {sorted(scorers)}")
    scorers[task.reward].check(task)


def score(answer: str, task: Task, runner: Runner | None = None) -> float:
    """The verdict of the task's scorer on an answer that its ``extract`` found, in [0, 1].

    The code reward runs programs in the ``runner``, a sandbox; the others need none.

    Raises:
        GraderError: math-verify cannot be run at all.
        sandbox.SandboxError: the sandbox failed.
    """
    check_reward(task)
    return SCORERS[task.reward].score(answer, task, runner)
