"""Bug injectors: small edits that turn a program that runs into one that fails.

Each injector proposes all its edits of a program; which of them really fail is decided by executing
them. The edits are the slips that language models make: a forgotten import, a misspelt name or
attribute, a variable that was never set, an unbalanced bracket, a wrong type, a call that does not
exist, a missing colon, lost indentation.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

__all__ = ["INJECTORS", "Injector", "propose_bug"]

Injector = Callable[[str], Iterator[str]]

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


def missing_import(code: str) -> Iterator[str]:
    """Leaves one import line out."""
    lines = code.split("\n")
    for index, line in enumerate(lines):
        if re.match(r"(import|from) ", line):
            yield "\n".join(lines[:index] + lines[index + 1 :])


def misspelt_name(code: str) -> Iterator[str]:
    """Misspells the last mention of a builtin, module, attribute or variable."""
    yield from _replace_last(code, _MISSPELT)


def wrong_call(code: str) -> Iterator[str]:
    """Calls something that does not exist, as one would from another language or from memory."""
    yield from _replace_last(code, _WRONG_CALLS)


def undefined_variable(code: str) -> Iterator[str]:
    """Forgets the line that sets a variable, or prints it under another name."""
    lines = code.split("\n")
    for index, line in enumerate(lines):
        if re.match(r'\w+ = (0|\[\]|""|2)$', line):
            yield "\n".join(lines[:index] + lines[index + 1 :])
    yield from _replace_last(code, _LOST_NAMES)


def unbalanced_bracket(code: str) -> Iterator[str]:
    """Drops the last closing bracket of a line, or doubles it."""
    lines = code.split("\n")
    for index, line in enumerate(lines):
        if line.endswith(")"):
            for changed in (line[:-1], line + ")"):
                yield "\n".join([*lines[:index], changed, *lines[index + 1 :]])


def missing_colon(code: str) -> Iterator[str]:
    """Drops the colon that opens a block."""
    for match in re.finditer(r":(?=\n)", code):
        yield code[: match.start()] + code[match.end() :]


def lost_indentation(code: str) -> Iterator[str]:
    """Puts the first line of a block at the margin."""
    for match in re.finditer(r"(?<=:\n) +", code):
        yield code[: match.start()] + code[match.end() :]


def wrong_type(code: str) -> Iterator[str]:
    """Mixes text and numbers, or gives a list where numbers are wanted."""
    if match := re.search(r"print\((?!f?\")(.+)\)$", code):
        yield f'{code[: match.start()]}print("Answer: " + {match[1]})'
    for match in re.finditer(r"(?<=[(\[=] )(\d+)(?=[,\n])|(?<=[(\[])(\d+)(?=,)", code):
        yield f'{code[: match.start()]}"{match[0]}"{code[match.end() :]}'
    for match in re.finditer(r'int\("(\d+)", ', code):
        yield f"{code[: match.start()]}int({match[1]}, {code[match.end() :]}"
    for match in re.finditer(r"append\(str\((\w)\)\)", code):
        yield f"{code[: match.start()]}append({match[1]}){code[match.end() :]}"
    for match in re.finditer(r"(?<=sum\()\[([^\]]+)\]", code):
        yield code[: match.start()] + match[1] + code[match.end() :]
    for match in re.finditer(r"(?<=gcd\()\d+, [\d, ]+|(?<=lcm\()\d+, [\d, ]+", code):
        yield f"{code[: match.start()]}[{match[0]}]{code[match.end() :]}"


def missing_quotes(code: str) -> Iterator[str]:
    """Writes a word as if it were a name."""
    for match in re.finditer(r'"([A-Za-z]+)"', code):
        yield code[: match.start()] + match[1] + code[match.end() :]


INJECTORS: dict[str, Injector] = {
    "missing_import": missing_import,
    "misspelt_name": misspelt_name,
    "wrong_call": wrong_call,
    "undefined_variable": undefined_variable,
    "unbalanced_bracket": unbalanced_bracket,
    "missing_colon": missing_colon,
    "lost_indentation": lost_indentation,
    "wrong_type": wrong_type,
    "missing_quotes": missing_quotes,
}
"""Name -> injector. An injector yields every edit it can make of a program, possibly none."""


def propose_bug(code: str, rng: random.Random) -> tuple[str, str] | None:
    """One edit by a random injector that applies: (injector's name, edited code), or None."""
    for name in rng.sample(list(INJECTORS), len(INJECTORS)):
        edits = [edit for edit in INJECTORS[name](code) if edit != code]
        if edits:
            return name, rng.choice(edits)
    return None


def _replace_last(code: str, table: dict[str, str]) -> Iterator[str]:
    """Replaces the last mention of each key, as a whole word where the key is one."""
    for old, new in table.items():
        left = r"(?<![\w.])" if old[0].isalpha() else ""
        right = r"\b" if old[-1].isalpha() else ""
        mentions = list(re.finditer(left + re.escape(old) + right, code))
        if mentions:
            yield code[: mentions[-1].start()] + new + code[mentions[-1].end() :]
