"""GSM8K: programs from the calculator annotations of its solutions.

``Natalia sold 48/2 = <<48/2=24>>24 clips in May.`` becomes ``clips_in_may = 48 / 2``: a variable a
step, named after the words behind the result, used by name in later steps. Whether a program is
right is not taken from here: it is executed and its output is scored.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword

from cleaner_env.tasks.rows import read_rows
from cleaner_env.tasks.spec import split_specs
from cleaner_rl.sft.demonstrations.family import Variant

__all__ = ["Gsm8kPrograms", "read_solutions", "solution_steps"]

_STEP = re.compile(r"<<([^<>=]+)=([^<>=]+)>>\s*\$?[\d.,]*%?([^.,;:!?()<\n]*)")
_EXPRESSION = re.compile(r"[\d.+\-*/() ]+")
_NUMBER = re.compile(r"(?<![\w.])(?:\d+\.?\d*|\.\d+)(?![\w.])")
_IN_TEXT = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?|\.\d+")
_NAME_WORDS = 3
_SKIPPED = re.compile(
    r"(a|an|the|and|or|of|for|in|on|at|to|per|by|from|with|is|are|was|were|will|would|be|has|had|"
    r"have|that|this|these|his|her|their|its|each|so|then|than|there|it|he|she|they|which|who|when|"
    r"if|more|less|as|not)"
)
_KNOWN_NUMBERS = frozenset(
    map(float, (0.25, 0.5, 0.75, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 24, 30, 52, 60, 100, 365))
)
"""Numbers that a solution may use without the question having them: halves, words, units."""


@dataclass(frozen=True)
class Step:
    """One line of a program, ``name = expression``."""

    name: str
    expression: str


@dataclass(frozen=True)
class Gsm8kPrograms:
    """Programs for the questions of a file; see ``cleaner_rl.sft.demonstrations.family.Programs``.

    Attributes:
        steps: question -> the steps of its program; questions without one are left out.
        solutions: how many solutions there were.
    """

    steps: Mapping[str, Sequence[Step]]
    solutions: int
    sentences: tuple[str, ...] = ("I will compute it step by step.", "Let me calculate this.")
    longest_answer: int = 20

    @classmethod
    def of(cls, solutions: Mapping[str, str]) -> Gsm8kPrograms:
        """The programs that can be built from solutions by question."""
        built = {question: solution_steps(question, text) for question, text in solutions.items()}
        steps = {question: steps for question, steps in built.items() if steps}
        return cls(steps, len(solutions))

    def knows(self, question: str) -> bool:
        """True for a question whose solution gave a program."""
        return question in self.steps

    def draw(self, question: str, rng: random.Random, *, right: bool) -> Variant:
        """The program of a question, or one that stops a step too early."""
        steps = self.steps[question]
        lines = [f"{step.name} = {step.expression}" for step in steps]
        result = steps[-1].name if right or len(steps) < 2 else steps[-2].name
        whole = not any("/" in step.expression or "." in step.expression for step in steps)
        # The data set's answers are whole numbers: division and decimals are rounded off.
        shown = f"print({result})" if whole else f"print(round({result}))"
        return Variant("\n".join([*lines, shown]), right)


def read_solutions(tasks: str) -> dict[str, str]:
    """Worked solutions by question, from every ``gsm8k:`` source of a ``--tasks`` value.

    Raises:
        ValueError: a file cannot be read.
    """
    solutions = {}
    for spec in split_specs(tasks):
        if spec.kind == "gsm8k":
            config, part = spec.options.get("config", ""), spec.options.get("hub_split", "train")
            for row in read_rows(spec.place, config, part):
                solutions[row.text("question")] = row.text("answer")
    return solutions


def solution_steps(question: str, solution: str) -> list[Step]:
    """The steps of a program that computes what a solution does; empty where none can be built.

    None can be built from a solution that computes in its head: each number of the program has to
    be in the question, to be the result of an earlier step, or to be an everyday constant, and the
    last step's result has to be the answer.
    """
    given = _numbers(question)
    steps: list[Step] = []
    names: dict[float, str] = {}
    used: set[str] = set()
    for written, result, words in _STEP.findall(solution):
        expression, value = _expression(written.strip(), given, names, used), _value(result)
        if expression is None or value is None:
            return []
        steps.append(Step(_name(words, {step.name for step in steps}), expression))
        names.pop(value, None)
        names[value] = steps[-1].name
    *_, last = names or [None]
    return steps if last == _value(solution.rpartition("####")[2].replace(",", "")) else []


def _expression(
    expression: str, given: set[float], names: Mapping[float, str], used: set[str]
) -> str | None:
    """An expression with earlier results by name; None where a number comes from nowhere.

    A number that is a result and in the question as well is the result the first time.
    """
    if not _EXPRESSION.fullmatch(expression):
        return None
    from_nowhere = False

    def named(match: re.Match[str]) -> str:
        nonlocal from_nowhere
        value = float(match[0])
        if value in names and (names[value] not in used or (value not in given and value > 2)):
            used.add(names[value])
            return names[value]
        from_nowhere |= value not in given | _KNOWN_NUMBERS
        return f"{value:.12g}" if match[0].startswith(("0", ".")) else match[0]

    text = _NUMBER.sub(named, expression.replace(" ", ""))
    text = re.sub(r"(?<=[\w.)])([-+*/]+)(?=[\w.(])", r" \1 ", text)
    if from_nowhere or not _parses(text):
        return None
    return text


def _name(words: str, taken: set[str]) -> str:
    """A variable's name from the words behind a result."""
    kept = [word for word in re.findall(r"[a-z]+", words.lower()) if not _SKIPPED.fullmatch(word)]
    name = "_".join(kept[:_NAME_WORDS])
    if not name or iskeyword(name) or name in ("print", "round") or len(name) > 30:
        name = "result"
    if name not in taken:
        return name
    return next(f"{name}_{i}" for i in range(2, 100) if f"{name}_{i}" not in taken)


def _parses(expression: str) -> bool:
    try:
        compile(expression, "step", "eval")
    except SyntaxError:
        return False
    return True


def _numbers(text: str) -> set[float]:
    """The numbers of a text, and what its percentages are as fractions."""
    found = {float(number.replace(",", "")) for number in _IN_TEXT.findall(text)}
    return found | {round(value / 100, 6) for value in found if f"{value:g}%" in text}


def _value(text: str) -> float | None:
    try:
        return float(text.strip())
    except ValueError:
        return None
