"""Bug injectors: small edits that turn a program that runs into one that fails.

The edits are the slips that language models make. Which of them really make a program fail is
decided by executing it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Injector:
    """Yields every edit that it can make of a program, possibly none.

    Attributes:
        each: regular expressions, each with what may stand in the place of any of its matches.
        last: words and pieces of code, each with what may stand in the place of its last mention.
    """

    each: tuple[tuple[str, ...], ...] = ()
    last: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, code: str) -> Iterator[str]:
        for pattern, *replacements in self.each:
            for match in re.finditer(pattern, code):
                for new in replacements:
                    yield code[: match.start()] + match.expand(new) + code[match.end() :]
        for old, new in self.last.items():
            # A key that is a word is replaced as a whole word only.
            left = r"(?<![\w.])" if old[0].isalpha() else ""
            right = r"\b" if old[-1].isalpha() else ""
            mentions = list(re.finditer(left + re.escape(old) + right, code))
            if mentions:
                yield code[: mentions[-1].start()] + new + code[mentions[-1].end() :]


_MISSPELT = {
    "print": "pritn",
    "range": "rnage",
    "sum": "summ",
    "round": "ruond",
    "len": "lenght",
    "reversed": "revesred",
    "sorted": "sortd",
    "format": "fromat",
    "divmod": "divmdo",
    "max": "maxx",
    "min": "minn",
    "math.gcd": "math.gdc",
    "math.lcm": "math.lmc",
    "math.prod": "math.prdo",
    "math.fsum": "math.fsmu",
    "operator.mul": "operator.mull",
    "operator.add": "operator.ad",
    ".count(": ".cuont(",
    ".append(": ".apend(",
    ".join(": ".jion(",
    ".bit_count(": ".bitcount(",
    ".bit_length(": ".bitlength(",
    "import math": "import maths",
    "from math": "from maths",
    "from fractions": "from fraction",
    "from decimal": "from decimals",
    "from functools": "from functool",
    "import operator": "import operators",
    "factors": "factor",
    "primes": "prime",
    "is_prime": "isprime",
}

_WRONG_CALLS = {
    "math.gcd(": "math.greatest_divisor(",
    "math.lcm(": "math.least_multiple(",
    "math.prod(": "math.product(",
    "math.fsum(": "math.sum(",
    "operator.mul(": "operator.multiply(",
    "operator.add(": "operator.plus(",
    ".append(": ".push(",
    ".count(": ".count_all(",
    ".bit_count()": ".count_bits()",
    ".bit_length()": ".num_bits()",
    ".join(": ".concat(",
    "[::-1]": ".reverse()",
    "reversed(": "reverse(",
    "import gcd": "import GCD",
    "import lcm": "import LCM",
    "import Fraction": "import fraction",
    "import Decimal": "import decimal",
    "import reduce": "import reducer",
    "str(": "string(",
    "divmod(": "div_mod(",
    "all(": "every(",
    "any(": "some(",
    "len(": "length(",
    "print(": "println(",
}

_LOST_NAMES = {"total": "result", "count": "counter", "digits": "result", "primes": "numbers"}


_WRONG_TYPES = (
    (r"print\((?!f?\")(.+)\)$", r'print("Answer: " + \1)'),
    (r"(?<=[(\[=] )(\d+)(?=[,\n])|(?<=[(\[])(\d+)(?=,)", r'"\g<0>"'),
    (r'int\("(\d+)", ', r"int(\1, "),
    (r"append\(str\((\w)\)\)", r"append(\1)"),
    (r"(?<=sum\()\[([^\]]+)\]", r"\1"),
    (r"(?<=gcd\()\d+, [\d, ]+|(?<=lcm\()\d+, [\d, ]+", r"[\g<0>]"),
)
"""Text mixed with numbers, numbers in quotes or out of them, a list where numbers are wanted."""

INJECTORS = {
    "missing_import": Injector(each=((r"(?m)^(?:import|from) .*\n", ""),)),
    # Of a builtin, module, attribute or variable.
    "misspelt_name": Injector(last=_MISSPELT),
    # Something that does not exist, as one would call it in another language or from memory.
    "wrong_call": Injector(last=_WRONG_CALLS),
    # The line that sets it is forgotten, or it is printed under another name.
    "undefined_variable": Injector(each=((r'(?m)^\w+ = (?:0|\[\]|""|2)\n', ""),), last=_LOST_NAMES),
    # The last one of a line is dropped or doubled.
    "unbalanced_bracket": Injector(each=((r"(?m)\)$", "", "))"),)),
    "missing_colon": Injector(each=((r":(?=\n)", ""),)),
    # Of the first line of a block.
    "lost_indentation": Injector(each=((r"(?<=:\n) +", ""),)),
    "wrong_type": Injector(each=_WRONG_TYPES),
    # A word is written as if it were a name.
    "missing_quotes": Injector(each=((r'"([A-Za-z]+)"', r"\1"),)),
}


def propose_bug(code: str, rng: random.Random) -> tuple[str, str] | None:
    """One edit by a random injector that applies: (injector's name, edited code), or None."""
    for name in rng.sample(list(INJECTORS), len(INJECTORS)):
        edits = [edit for edit in INJECTORS[name](code) if edit != code]
        if edits:
            return name, rng.choice(edits)
    return None
