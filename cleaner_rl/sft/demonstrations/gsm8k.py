"""GSM8K: programs from the calculator annotations of its solutions.

``Natalia sold 48/2 = <<48/2=24>>24 clips in May.`` becomes ``clips_in_may = 48 / 2``: each step
sets a variable, which is named after the words that follow the result and used in later steps.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from keyword import iskeyword

from cleaner_env.tasks.rows import read_rows
from cleaner_env.tasks.spec import split_specs

_STEP = re.compile(r"<<([^<>=]+)=([^<>=]+)>>\s*\$?[\d.,]*%?([^.,;:!?()<\n]*)")
_EXPRESSION = re.compile(r"[\d.+\-*/() ]+")
_NUMBER = re.compile(r"(?<![\w.])(?:\d+\.?\d*|\.\d+)(?![\w.])")
_IN_TEXT = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?|\.\d+")
_SKIPPED = re.compile(
    r"(a|an|the|and|or|of|for|in|on|at|to|per|by|from|with|is|are|was|were|will|would|be|has|had|"
    r"have|that|this|these|his|her|their|its|each|so|then|than|there|it|he|she|they|which|who|when|"
    r"if|more|less|as|not)"
)
_KNOWN_NUMBERS = frozenset(
    map(float, (0.25, 0.5, 0.75, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 24, 30, 52, 60, 100, 365))
)
"""Numbers that a solution may use even if they are not in the question: halves, words, units."""


@dataclass(frozen=True)
class Gsm8kPrograms:
    """Programs for the questions of GSM8K files."""

    steps: Mapping[str, Mapping[str, str]]
    """Question -> its program as variable -> expression; questions without one are omitted."""
    solutions: int
    """The number of solutions, with a program or without."""
    sentences: tuple[str, ...] = ("I will compute it step by step.", "Let me calculate this.")
    longest_answer: int = 20

    @classmethod
    def of(cls, solutions: Mapping[str, str]) -> Gsm8kPrograms:
        """Build programs from worked solutions, which are given by question."""
        built = {question: _solution_steps(question, text) for question, text in solutions.items()}
        return cls({question: steps for question, steps in built.items() if steps}, len(solutions))

    def knows(self, question: str) -> bool:
        """Whether the question's solution gave a program."""
        return question in self.steps

    def draw(self, question: str, rng: random.Random, *, right: bool) -> str:
        """The program of a question, or the same stopping one step too early."""
        steps = self.steps[question]
        names = list(steps)
        result = names[-1] if right or len(names) < 2 else names[-2]
        whole = not any("/" in expression or "." in expression for expression in steps.values())
        # The data set's answers are whole numbers: division and decimals are rounded off.
        shown = f"print({result})" if whole else f"print(round({result}))"
        return "\n".join([*(f"{name} = {steps[name]}" for name in names), shown])


def read_solutions(tasks: str) -> dict[str, str]:
    """Worked solutions by question, from every ``gsm8k:`` source of a ``--tasks`` value."""
    solutions = {}
    for spec in split_specs(tasks):
        if spec.kind == "gsm8k":
            config, part = spec.options.get("config", ""), spec.options.get("hub_split", "train")
            for row in read_rows(spec.place, config, part):
                solutions[row.text("question")] = row.text("answer")
    return solutions


def _solution_steps(question: str, solution: str) -> dict[str, str]:
    """The program of a solution as variable -> expression; empty if there is none.

    A solution that computes anything in its head has none: each number must be in the question, the
    result of an earlier step, or an everyday constant, and the last step's result must be the
    answer.
    """
    given = _numbers(question)
    steps: dict[str, str] = {}
    names: dict[float, str] = {}
    used: set[str] = set()
    for written, result, words in _STEP.findall(solution):
        expression, value = _expression(written.strip(), given, names, used), _value(result)
        if expression is None or value is None:
            return {}
        name = _name(words, steps)
        steps[name] = expression
        names.pop(value, None)  # the newest result comes last
        names[value] = name
    *_, last = names or [None]
    return steps if last == _value(solution.rpartition("####")[2].replace(",", "")) else {}


def _expression(
    expression: str, given: set[float], names: Mapping[float, str], used: set[str]
) -> str | None:
    """Replace earlier results in an expression by their names; None if a number has no source.

    A number that is both a result and in the question is taken as the result the first time.
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
    if from_nowhere:
        return None
    try:
        compile(text, "step", "eval")
    except SyntaxError:
        return None
    return text


def _name(words: str, taken: Collection[str]) -> str:
    """A variable's name from the words that follow a result."""
    kept = [word for word in re.findall(r"[a-z]+", words.lower()) if not _SKIPPED.fullmatch(word)]
    name = "_".join(kept[:3])
    if not name or iskeyword(name) or name in ("print", "round") or len(name) > 30:
        name = "result"
    if name not in taken:
        return name
    return next(f"{name}_{i}" for i in range(2, 100) if f"{name}_{i}" not in taken)


def _numbers(text: str) -> set[float]:
    """The numbers of a text, and its percentages as fractions."""
    found = {float(number.replace(",", "")) for number in _IN_TEXT.findall(text)}
    return found | {round(value / 100, 6) for value in found if f"{value:g}%" in text}


def _value(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
