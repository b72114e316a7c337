r"""Grade the reference answers of real data sets, as they are and altered.

    python benchmarks/verify_answers.py --data ../shared/data

Each reference is treated as a model's answer: put into a sentence with ``\boxed{}``, extracted
again, and given to the math reward. It is written in many forms with the same value: plain
(``1450000``, ``1,450,000``, ``1450000.00``, ``1.45*10**6``, ``\frac{29}{20}`` for ``1.45``), with
units (``5 \text{ units}``, ``5 dollars``, ``£5``, ``5 km/h``), with marks between the digits
(``1\,450\,000``, ``1_450_000``), as Python prints it (``Fraction(29, 20)``), decorated (``**5**``,
``\textcolor{red}{5}``, ``The answer is 5``), in a box without braces; words in other letters. Other
forms have another value: one more or less, ten times as much, the negative, a half more, a
millionth more, plain and with units or decoration; two answers at once; a multiple of a variable;
for ratios and times of day, another last number; for words, another word of the data set.

Prints the share of right verdicts and every wrong one; then, for plain numbers, whether the rules
that decide without math-verify agree with it, and what a comparison costs. The exit status is 1
when less than 99.9% of a data set's verdicts are right.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction

from cleaner_env.rewards import GRADER, extract_boxed, score
from cleaner_env.rewards.equivalence import equivalent
from cleaner_env.rewards.numbers import read_number
from cleaner_env.task import Task
from cleaner_env.tasks.load import first_tasks, load_tasks

SETS = {
    "GSM8K test": "gsm8k:{}/gsm8k_test.jsonl@holdout=1,shuffle=no",
    "AIME24": "aime:{}/aime24_test.jsonl@shuffle=no",
    "ASDiv": "asdiv:{}/asdiv_test.jsonl@holdout=1,shuffle=no",
    "MAWPS": "mawps:{}/mawps_test.jsonl@holdout=1,shuffle=no",
}
WANTED = 0.999


def number(reference: str) -> Fraction | None:
    """The value of a reference that is a plain number."""
    read = read_number(reference)
    return None if read is None else read.value


def decimal(value: Fraction) -> str | None:
    """The number's decimal digits; None where they do not end."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest > 1:
        return None
    text = f"{float(value):.12f}".rstrip("0").rstrip(".")
    return text if Fraction(text) == value else None


def same(reference: str) -> Iterator[str]:
    """Ways to write the reference's own value."""
    yield reference
    yield f"${reference}$"
    yield f" {reference}. "
    yield f"**{reference}**"
    yield rf"\textcolor{{red}}{{{reference}}}"
    yield f"The answer is {reference}"
    value = number(reference)
    if value is None:
        yield rf"\text{{{reference}}}"
        yield reference.upper()
        return
    yield rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    yield f"Fraction({value.numerator}, {value.denominator})"
    digits = decimal(value)
    if digits is None:
        return
    yield f"{digits}.00" if "." not in digits else f"{digits}0"
    for form in (
        r"{} \text{{ units}}",
        "{} dollars",
        "£{}",
        "{} km/h",
        "x = {}",
        r"\underline{{{}}}",
    ):
        yield form.format(digits)
    yield f"{digits.replace('-', '−')}\u200b"  # noqa: RUF001 (a minus sign, and no width)
    yield f"{float(value)!r}*10**0"
    if "." not in digits:
        for mark in (",", "_", r"\,", "\u202f", "{,}"):
            yield f"{int(digits):,}".replace(",", mark)


def other(reference: str, words: Sequence[str]) -> Iterator[str]:
    """Answers with a different value."""
    value = number(reference)
    if value is not None:
        changes = (value + 1, 10 * value, -value, value + Fraction(1, 2), value - 1)
        for changed in filter(lambda changed: changed != value, changes):
            yield decimal(changed) or f"{changed.numerator}/{changed.denominator}"
        wrong = decimal(value + 1) or f"{value + 1}"
        for form in ("{} dollars", "£{}", "**{}**", r"\textcolor{{red}}{{{}}}", "The answer is {}"):
            yield form.format(wrong)
        right = decimal(value) or f"{value}"
        for form in (
            () if value == 0 else ("{} x", "{} million", f"{{}} or {wrong}", "not {}", "{}, {}")
        ):
            yield form.format(right, right)
        if value.denominator == 1:
            yield f"{value}.000001"
        return
    last = list(re.finditer(r"\d+", reference))
    if last:
        found = last[-1]
        yield f"{reference[: found.start()]}{int(found[0]) + 1}{reference[found.end() :]}"
    place = words.index(reference) if reference in words else 0
    yield next(word for word in [*words[place:], *words] if word.lower() != reference.lower())


def judge(task: Task, written: str) -> bool:
    """Grade an answer written into a turn; a plain number goes into a box without braces."""
    box = written if re.fullmatch(r"\d+", written) else f"{{{written}}}"
    answer = extract_boxed(rf"I add them up. The answer is $\boxed {box}$.")
    return answer is not None and score(answer, task) >= 1


def measure(name: str, tasks: Sequence[Task]) -> bool:
    """Print a data set's verdicts and return whether enough of them are right."""
    words = sorted({task.answer for task in tasks if number(task.answer) is None})
    counts = {True: [0, 0], False: [0, 0]}
    for task in tasks:
        for wanted, forms in ((True, same(task.answer)), (False, other(task.answer, words))):
            for form in forms:
                counts[wanted][0] += 1
                if judge(task, form) == wanted:
                    counts[wanted][1] += 1
                else:
                    verb = "refused" if wanted else "accepted"
                    print(f"  {name}: {form!r} is {verb} for {task.answer!r}: {task.prompt[:60]}")
    shares = {wanted: right / all_ for wanted, (all_, right) in counts.items()}
    print(
        f"{name}: {len(tasks)} problems; the same {counts[True][1]}/{counts[True][0]} "
        f"({shares[True]:.3%}), another {counts[False][1]}/{counts[False][0]} ({shares[False]:.3%})"
    )
    return min(shares.values()) >= WANTED


def agreement(tasks: Sequence[Task]) -> None:
    """Print where the rules for plain numbers and math-verify differ, and what each costs."""
    references = sorted({task.answer for task in tasks if number(task.answer) is not None})
    pairs = [(gold, form) for gold in references for form in (gold, next(other(gold, ())))]
    started = time.perf_counter()
    ours = [equivalent(gold, form) for gold, form in pairs]
    rules = time.perf_counter() - started
    GRADER.equal("1", "1")
    started = time.perf_counter()
    theirs = [GRADER.equal(gold, form) for gold, form in pairs]
    library = time.perf_counter() - started
    for (gold, form), mine, yours in zip(pairs, ours, theirs, strict=True):
        if mine != yours:
            print(f"  rules say {mine}, math-verify says {yours}: {form!r} for {gold!r}")
    agreed = sum(mine == yours for mine, yours in zip(ours, theirs, strict=True))
    print(
        f"plain numbers: rules and math-verify agree on {agreed} of {len(pairs)}; "
        f"{1000 * rules / len(pairs):.3f} ms and {1000 * library / len(pairs):.1f} ms a comparison"
    )


def main() -> int:
    """Measure every data set and return 0 when each reaches 99.9%."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = os.environ.get("CLEANER_DATA", "../shared/data")
    parser.add_argument("--data", default=default, help="directory of the .jsonl files")
    data = parser.parse_args().data
    good, everything = True, []
    for name, spec in SETS.items():
        tasks = first_tasks(load_tasks(spec.format(data), "test"), 10**6)
        good &= measure(name, tasks)
        everything += tasks
    agreement(everything)
    health = GRADER.health
    print(
        f"math-verify: {health.comparisons} comparisons, {health.timeouts} timeouts, "
        f"{health.crashes} crashes, {1000 * health.seconds / health.comparisons:.1f} ms each"
    )
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
