"""BuiltinTasks: arithmetic and number problems that need no package.

Each family is a function of a random generator and a level of difficulty. Its answers are exact.
A program of a few lines finds them; by hand they take long, at the higher levels too long.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType

from cleaner_env.task import Task
from cleaner_env.tasks.sources import FamilyTasks, Split
from cleaner_env.tasks.spec import nearest

Problem = tuple[str, int | str | Fraction]
"""A question and its answer."""
LEVELS = 4


def _expression(rng: random.Random, level: int) -> Problem:
    value = rng.randrange(10, 10 ** (level + 2))
    text = str(value)
    for _ in range(level + 2):
        sign, number = rng.choice("+-*"), rng.randrange(2, 10 ** (level + 1))
        if sign == "*":
            text = f"({text}) * {number}" if " " in text else f"{text} * {number}"
            value *= number
        else:
            text = f"{text} {sign} {number}"
            value += number if sign == "+" else -number
    return rng.choice((f"What is {text}?", f"Calculate {text}.", f"Evaluate {text}.")), value


def _remainder(rng: random.Random, level: int) -> Problem:
    base, exponent = rng.randrange(2, 10 ** (level + 1)), rng.randrange(5, 20 * 5**level)
    divisor = rng.randrange(7, 10 ** (level + 2))
    wordings = (
        f"What is the remainder when {base}^{exponent} is divided by {divisor}?",
        f"Find {base}^{exponent} modulo {divisor}.",
    )
    return rng.choice(wordings), pow(base, exponent, divisor)


def _digit_sum(rng: random.Random, level: int) -> Problem:
    base, exponent = rng.randrange(2, 100), rng.randrange(3, 10 * 3**level)
    wordings = (
        f"What is the sum of the decimal digits of {base}^{exponent}?",
        f"Write {base}^{exponent} in decimal and add up its digits. What do you get?",
    )
    return rng.choice(wordings), sum(map(int, str(base**exponent)))


def _primes(rng: random.Random, level: int) -> Problem:
    low = rng.randrange(2, 10 ** (level + 2))
    high = low + rng.randrange(20, 50 * 2**level)
    primes = [n for n in range(low, high + 1) if all(n % d for d in range(2, math.isqrt(n) + 1))]
    wordings = (
        f"How many prime numbers are there from {low} to {high}, both included?",
        f"Count the primes p with {low} <= p <= {high}.",
    )
    return rng.choice(wordings), len(primes)


def _common(rng: random.Random, level: int) -> Problem:
    factor = rng.randrange(2, 10 ** (level + 1))
    a, b, c = (factor * rng.randrange(2, 10 * 3**level) for _ in range(3))
    if rng.random() < 0.5:
        return f"What is the greatest common divisor of {a}, {b} and {c}?", math.gcd(a, b, c)
    return f"Find the smallest positive number that {a}, {b} and {c} all divide.", math.lcm(a, b, c)


def _base(rng: random.Random, level: int) -> Problem:
    number, base = rng.randrange(10, 10 ** (level + 3)), rng.randrange(2, 10)
    digits, rest = "", number
    while rest:
        rest, digit = divmod(rest, base)
        digits = f"{digit}{digits}"
    if rng.random() < 0.5:
        return f"Write the number {number} in base {base}.", digits
    return f"The digits {digits} are a number in base {base}. What is it in base ten?", number


def _fractions(rng: random.Random, level: int) -> Problem:
    below = 10 ** (level + 1)
    terms = [Fraction(rng.randrange(1, below), rng.randrange(2, below)) for _ in range(level + 2)]
    text = " + ".join(map(str, terms))
    return f"What is {text}, as a fraction in lowest terms?", sum(terms, Fraction(0))


def _sequence(rng: random.Random, level: int) -> Problem:
    first, factor, step = (rng.randrange(2, 10 ** (level + 1)) for _ in range(3))
    modulus, place = rng.randrange(50, 10 ** (level + 2)), rng.randrange(5, 10 * 4**level)
    term = first
    for _ in range(place - 1):
        term = (term * factor + step) % modulus
    return (
        f"A sequence begins with {first}. To get the next term, multiply the last one by {factor}, "
        f"add {step}, and take the remainder modulo {modulus}. What is term number {place}?"
    ), term


def _shopping(rng: random.Random, level: int) -> Problem:
    goods = rng.sample(("pencils", "notebooks", "stamps", "candles", "mugs", "lamps"), level + 2)
    basket = [(rng.randrange(2, 30), name, rng.randrange(20, 3000)) for name in goods]
    listed = ", ".join(f"{count} {name} at {_money(price)} each" for count, name, price in basket)
    cents = sum(count * price for count, _, price in basket)
    paid = 100 * (cents // 100 + rng.randrange(1, 100))
    wordings = (
        f"Ada buys {listed}, and pays with {_money(paid)}. How much change is due?",
        f"Ben has {_money(paid)} and buys {listed}. How much money is left?",
    )
    return rng.choice(wordings), _money(paid - cents)


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


BUILTIN: Mapping[str, Callable[[random.Random, int], Problem]] = MappingProxyType(
    {
        family.__name__.removeprefix("_"): family
        for family in (
            *(_expression, _remainder, _digit_sum, _primes, _common),
            *(_base, _fractions, _sequence, _shopping),
        )
    }
)
"""The built-in families, by name."""


class BuiltinTasks(FamilyTasks):
    """Endless tasks of the built-in families; no package is needed for them.

    Args:
        level: difficulty, from 0 to 3.
    """

    def __init__(
        self,
        families: Sequence[str] = tuple(BUILTIN),
        split: Split = "train",
        seed: int = 0,
        level: int = 1,
    ) -> None:
        super().__init__(families, split, seed)
        unknown = [name for name in families if name not in BUILTIN]
        if unknown or not families:
            near = nearest(unknown[0], BUILTIN) if unknown else ""
            names = ", ".join(sorted(BUILTIN))
            raise ValueError(
                f"built-in families are {names}, not {', '.join(unknown) or '-'}{near}"
            )
        if not 0 <= level < LEVELS:
            raise ValueError(f"the levels of built-in tasks go from 0 to {LEVELS - 1}; not {level}")
        self._level = level

    def _questions(self, which: int, turn: int) -> Iterator[Task]:
        name = self._names[which]
        rng = random.Random(f"{self._seed}/{self._split}/{name}/{self._level}/{turn}")
        while True:
            question, answer = BUILTIN[name](rng, self._level)
            yield Task(question, str(answer), name, entry={"difficulty": self._level})

    def _narrowed(self, names: Sequence[str], level: int | None) -> BuiltinTasks:
        level = self._level if level is None else level
        return BuiltinTasks(names, self._split, self._seed, level)
