"""Units: what a number counts, and whether two answers can mean the same thing by it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction

from cleaner_env.rewards.notation import NAMES
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
"""Base unit, how many of it, and names; plurals are added to names of three letters and more."""
_KNOWN = {
    name + plural: (base, Fraction(factor))
    for base, factor, *names in map(str.split, _UNITS.strip().replace("\n", "|").split("|"))
    for name in names
    for plural in (("", "s", "es") if len(name) > 2 else ("",))
}
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_IDLE = set("a an the of unit units point points total altogether each ( ) . -".split())
"""What adds nothing to a unit."""
_NO_UNIT = {
    *NAMES,
    *"""
and or not no nor than to if is are was were plus minus times over by less more but wrong incorrect
perhaps maybe negative squared cubed between dozen half nan pi sqrt mod lcm
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
""".split(),
}
"""Words that say more about a number than what it counts."""
_REWRITES = {
    r"\\text\{([^{}]*)\}": r" \1 ",
    r"\^\{\\circ\}": " degree ",
    r"\\cdot|\\": " ",
    r"\bdegrees?\s+(?=[CF])": "",
    r"\bmph\b": "mi / h",
    r"\b(?:kph|kmh|kmph)\b": "km / h",
    r"\bper cent\b": "percent",
    r"\bper\b": "/",
    r"\b([ap])\. ?m\b\.?": r"\1m",
    r"\b(?:square|sq)\b\.? *(\w+)|(\w+) squared\b": r"\1\2 ^{2}",
    r"\b(?:cubic|cu)\b\.? *(\w+)|(\w+) cubed\b": r"\1\2 ^{3}",
}
_TOKEN = re.compile(r"[A-Za-zμΩ]+|\^\{-?\d\}|\S")
_CURRENCY = re.compile(r"([+-]?)\s*(?:US)?(\\\$|USD|EUR|GBP|Rs\.?|[€£¥₹])\s*(?=[\d.+\\-])(.*)")
_QUANTITY = re.compile(
    r"(.*?(?:[\d})!]|\\pi|\s|\\ldots))(\s*)(?=\\|\^\{\\circ|[A-Za-zμΩ$€£¥₹¢%(/])"
    r"((?:\\text\{[^{}]*\}|\\[%$]|\^\{\\circ\}|\\cdot|\^\{-?\d\}|[A-Za-zμΩ$€£¥₹¢%./() -])+)"
)


@dataclass(frozen=True, slots=True)
class Unit:
    """What a number counts.

    Attributes:
        known: the base units of the table, each with its power.
        factor: how many of the base units it is.
        words: what else is counted, such as apples.
        scale: 1000 for "thousand", and the like.
        doubtful: it is a single letter, which may as well be a variable.
    """

    known: frozenset[tuple[str, int]] = frozenset()
    factor: Fraction = Fraction(1)
    words: frozenset[str] = frozenset()
    scale: Fraction = Fraction(1)
    doubtful: bool = False

    @property
    def percent(self) -> bool:
        """Whether it is the percent sign."""
        return ("%", 1) in self.known

    def contradicts(self, other: Unit) -> bool:
        """Whether both name something, and not the same thing: cm and s, dollars and apples."""
        if self.known and other.known:
            return self.known != other.known
        if self.known or other.known:
            words = other.words if self.known else self.words
            return bool(words) and not (self.percent or other.percent)
        return bool(self.words and other.words) and not self.words & other.words


def split_unit(text: str) -> tuple[str, Unit]:
    r"""A quantity in plain TeX as its number or formula and its unit: ``9\pi \text{ cm}^{2}``.

    A word without ``\text{}`` is a unit only if it is in the table or a plain number precedes it.
    """
    symbol, unit = "", Unit()
    if before := _CURRENCY.fullmatch(text):
        symbol, text = before[2].strip("."), before[1] + before[3]
        unit = _read_unit(symbol) or unit
    found = _QUANTITY.fullmatch(text)
    if not found or not found[1].strip() or not found[3].strip("()/. -"):
        return text, unit
    value, written = found[1].strip(), found[3]
    if value.count("(") != value.count(")"):
        return text, unit
    read = _read_unit(written)
    if symbol and read and not read.known & unit.known:
        read = _read_unit(f"{symbol} {written}")  # $5 per ticket
    if read is None:
        return text, unit
    bare = written[0].isalpha()
    spaced = found[2] or found[1].endswith(" ")
    if bare and read.words and not (spaced and read_number(value)):
        return text, unit
    return value, replace(read, doubtful=bare and len(written.strip()) == 1)


def _read_unit(text: str) -> Unit | None:
    """A unit in words or signs; None if the text is no unit."""
    for pattern, replacement in _REWRITES.items():
        text = re.sub(pattern, replacement, text)
    powers: Counter[str] = Counter()
    factor, scale, words, sign = Fraction(1), Fraction(1), set(), 1
    last: tuple[str, Fraction] | None = None
    for token in _TOKEN.findall(text):
        lower = token.lower()
        known = _KNOWN.get(token) or (_KNOWN.get(lower) if len(token) > 1 else None)
        if token == "/":
            sign = -1
        elif token[0] == "^":  # the unit before it is there once already
            more = int(token[2:-1]) - 1
            powers[last[0] if last else ""] += sign * more
            factor *= (last[1] if last else 1) ** (sign * more)
        elif known:
            powers[known[0]] += sign
            factor *= known[1] ** sign
            last = known
        elif lower in _SCALES:
            scale *= 10 ** _SCALES[lower]
        elif lower in _NO_UNIT:
            return None
        elif lower in _IDLE:
            last = None
        elif len(token) > 2 and token.isalpha() and set(lower) & set("aeiouy"):
            words.add(lower.rstrip("es"))
        else:
            return None
    base = frozenset((name, power) for name, power in powers.items() if name and power)
    return Unit(base, factor, frozenset(words), scale)
