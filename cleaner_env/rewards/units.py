"""Units: what a number is said to count, and whether two answers may mean the same by it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache

from cleaner_env.rewards.numbers import read_number

_UNITS = """
m 1 m meter metre | m 1/1000 mm millimeter millimetre | m 1/100 cm centimeter centimetre
m 1/10 dm decimeter | m 1000 km kilometer kilometre | m 1/1000000 μm um micrometer
m 1/1000000000 nm nanometer | m 127/5000 in inch | m 381/1250 ft foot feet
m 1143/1250 yd yard | m 201168/125 mi mile
s 1 s sec second | s 60 min minute | s 3600 h hr hour | s 86400 day | s 604800 week | s 1/1000 ms
month 1 month | month 12 yr year
g 1 g gram | g 1/1000 mg milligram | g 1000 kg kilogram | g 1000000 tonne
ounce 1 oz ounce | pound 1 lb pound £ gbp
L 1 L l liter litre | L 1/1000 mL ml milliliter millilitre | gallon 1 gal gallon
dollar 1 $ dollar usd us | dollar 1/100 ¢ cent | euro 1 € euro eur | yen 1 ¥ yen
rupee 1 ₹ rupee rs
degree 1 degree deg | radian 1 rad radian | celsius 1 C celsius | fahrenheit 1 F fahrenheit
N 1 N newton | J 1 J joule | J 1000 kJ | W 1 W watt | W 1000 kW | V 1 V volt | K 1 kelvin
Hz 1 Hz hertz | Pa 1 Pa pascal | Pa 1000 kPa | mol 1 mol mole | ohm 1 ohm Ω
am 1 am | pm 1 pm | % 1 % percent pct percentage
"""
_COMPOSED = {
    r"\bmph\b": "mi / h",
    r"\b(?:kph|kmh|kmph)\b": "km / h",
    r"\bper cent\b": "percent",
    r"\bdegrees?\s+(?=[CF])": "",
    r"\b([ap])\. ?m\b\.?": r"\1m",
}
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_IDLE = "a an the of unit units point points total altogether each"
"""Words that add nothing to a unit."""
_NO_UNIT = """
and or not no nor than to if is are was were plus minus times over by less more but wrong incorrect
between dozen half pi sin cos tan cot sec csc log ln exp sqrt mod max min gcd lcm
one two three four five six seven eight nine ten eleven twelve
"""
"""Words that make more of a number than a quantity."""
_VOWEL = re.compile("[aeiouyAEIOUY]")
_TOKEN = re.compile(r"[A-Za-zμΩ]+|[$€£¥₹¢%]|\^\{-?\d\}|\S")


@cache
def _units() -> dict[str, tuple[str, Fraction]]:
    known = {}
    for entry in _UNITS.strip().replace("\n", "|").split("|"):
        base, factor, *names = entry.split()
        for name in names:
            plurals = (name + "s", name + "es") if len(name) > 2 else ()
            known.update(dict.fromkeys((name, *plurals), (base, Fraction(factor))))
    return known


@dataclass(frozen=True, slots=True)
class Unit:
    """What is said to be counted.

    Attributes:
        known: units of the table, each with its power; ``factor`` leads to their base units.
        words: anything else, such as apples.
        scale: of "thousand", "million" and the like.
        doubtful: a single letter beside a formula, which may be one of its variables.
    """

    known: frozenset[tuple[str, int]] = frozenset()
    factor: Fraction = Fraction(1)
    words: frozenset[str] = frozenset()
    scale: Fraction = Fraction(1)
    doubtful: bool = False

    @property
    def percent(self) -> bool:
        return ("%", 1) in self.known

    def contradicts(self, other: Unit) -> bool:
        """Whether both are given and cannot be the same, as with cm and s, or $ and apples."""
        if self.known and other.known:
            return self.known != other.known
        if self.known or other.known:
            counted = other.words if self.known else self.words
            return bool(counted) and not (self.percent or other.percent)
        return bool(self.words and other.words) and not self.words & other.words


NO_UNIT = Unit()
_CURRENCY = re.compile(r"([+-]?)\s*(?:US)?(\\\$|USD|EUR|GBP|Rs\.?|[€£¥₹])\s*(?=[\d.+\\-])(.*)")
_BEHIND = re.compile(
    r"(?P<value>.*?(?:[\d})!]|\\pi|\s|\\ldots))\s*"
    r"(?P<unit>(?:\\text\{[^{}]*\}|\\[%$]|\^\{\\circ\}|\\cdot|\^\{-?\d\}|[A-Za-zμΩ$€£¥₹¢%./() -])+)"
)


def split_unit(text: str) -> tuple[str, Unit]:
    """A quantity without its unit, and the unit."""
    before, unit = _CURRENCY.fullmatch(text), NO_UNIT
    if before:
        text, symbol = before[1] + before[3], before[2].strip("\\.")
        unit = _unit(symbol) or NO_UNIT
    found = _BEHIND.fullmatch(text)
    if not found or not re.search(r"[^\s().-]", found["unit"]):
        return text, unit
    value, written = found["value"].strip(), found["unit"]
    words = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", written.replace(r"^{\circ}", " degree "))
    words = words.replace("\\cdot", " ").replace("\\", "")
    read = _unit(words)
    if before and read and not read.known & unit.known:
        read = _unit(f"{symbol} {words}")  # $5 per ticket
    if not value or read is None:
        return text, unit
    bare = written[0].isalpha()
    spaced = text[found.start("unit") - 1] in " ("
    if bare and read.words and not (spaced and read_number(value)):
        return text, unit
    return value, replace(read, doubtful=bare and len(written.strip()) == 1)


def _unit(text: str) -> Unit | None:
    """A unit in words or signs; None if the text is no unit."""
    for pattern, written in _COMPOSED.items():
        text = re.sub(pattern, written, text)
    known: Counter[str] = Counter()
    factor, scale, words = Fraction(1), Fraction(1), set()
    sign = power = 1
    last: tuple[str, Fraction] | None = None
    for token in _TOKEN.findall(text):
        lower = token.lower()
        raised = re.fullmatch(r"\^\{(-?\d)\}", token)
        more = int(raised[1]) - 1 if raised else {"squared": 1, "cubed": 2}.get(lower)
        if more is not None and last:
            known[last[0]] += sign * more
            factor *= last[1] ** (sign * more)
        elif lower in ("/", "per"):
            sign = -1
        elif lower in ("square", "sq", "cubic", "cu"):
            power = 2 if lower.startswith("sq") else 3
        elif lower in _SCALES:
            scale *= 10 ** _SCALES[lower]
        elif found := _units().get(token) or _units().get(lower if len(token) > 1 else ""):
            known[found[0]] += sign * power
            factor *= found[1] ** (sign * power)
            last, power = found, 1
        elif lower in _NO_UNIT.split():
            return None
        elif lower in _IDLE.split() or token in "().-":
            pass
        elif len(token) > 2 and token.isalpha() and _VOWEL.search(token):
            words.add(lower.rstrip("es"))
        else:
            return None
    powers = frozenset((base, count) for base, count in known.items() if count)
    return Unit(powers, factor, frozenset(words), scale)
