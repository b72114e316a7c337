"""The program book: for each task family, right programs, and wrong ones that run all the same.

Whether a filled program really is right is not taken from here: every program is executed and its
output scored.
"""

from __future__ import annotations

import re

from cleaner_rl.sft.demonstrations.family import FamilyPrograms

__all__ = ["PROGRAM_BOOK"]


def _chain_fields(fields: dict[str, str]) -> dict[str, str]:
    """Terms with their signs, the sum without its last term, and with its last sign flipped."""
    pieces = fields["expr"].split(" ")
    signed = [pieces[0]]
    for sign, number in zip(pieces[1::2], pieces[2::2], strict=True):
        signed.append(number if sign == "+" else f"-{number}")
    flipped = [*pieces[:-2], "+" if pieces[-2] == "-" else "-", pieces[-1]]
    return {
        **fields,
        "terms": ", ".join(signed),
        "bare": ", ".join(pieces[0::2]),
        "decimals": _as_decimals(pieces),
        "flipped_decimals": _as_decimals(flipped),
        "flipped": " ".join(flipped),
    }


def _as_decimals(pieces: list[str]) -> str:
    """An expression of exact decimals from alternating numbers and signs."""
    return " ".join(piece if piece in "+-" else f'Decimal("{piece}")' for piece in pieces)


def _expression_fields(fields: dict[str, str]) -> dict[str, str]:
    """The expression with its first operator replaced by another one."""
    other = {"+": "-", "-": "+", "*": "+"}
    flipped = re.sub(r"[-+*]", lambda match: other[match[0]], fields["expr"], count=1)
    return {**fields, "flipped": flipped}


def _equation_fields(fields: dict[str, str]) -> dict[str, str]:
    """The equation's left side in x, whatever the question calls the unknown."""
    return {**fields, "left": re.sub("[a-z]", "x", fields["left"])}


def _base_fields(fields: dict[str, str]) -> dict[str, str]:
    """Bases as numbers: the library writes base 2 and base 16 as words."""
    named = {"binary": "2", "hexadecimal": "16"}
    bases = {key: fields[key].removeprefix("base-") for key in ("source", "target")}
    return {**fields, **{key: named.get(base, base) for key, base in bases.items()}}


_CHAIN = r"problem: (?P<expr>[-+.\d ]+?) ="

PROGRAM_BOOK: dict[str, FamilyPrograms] = {
    "chain_sum": FamilyPrograms(
        question=_CHAIN,
        extend=_chain_fields,
        sentences=(
            "I will compute the sum.",
            "Let me calculate this.",
            "I add up the terms with Python.",
        ),
        right=(
            "print($expr)",
            "terms = [$terms]\nprint(sum(terms))",
            "total = $expr\nprint(total)",
            "total = 0\nfor term in [$terms]:\n    total += term\nprint(total)",
            "import math\nprint(int(math.fsum([$terms])))",
        ),
        wrong=(
            "print($flipped)",
            "terms = [$bare]\nprint(sum(terms))",
            "total = $flipped\nprint(total)",
            "total = 0\nfor term in [$terms][1:]:\n    total += term\nprint(total)",
            "import math\nprint(int(math.prod([$terms])))",
        ),
    ),
    "decimal_chain_sum": FamilyPrograms(
        question=_CHAIN,
        extend=_chain_fields,
        sentences=(
            "I will compute the sum.",
            "Let me calculate this.",
            "I add up the decimals with Python.",
        ),
        right=(
            "from decimal import Decimal\nprint($decimals)",
            "print(round($expr, 4))",
            "total = $expr\nprint(round(total, 2))",
            "terms = [$terms]\nprint(round(sum(terms), 4))",
        ),
        wrong=(
            "from decimal import Decimal\nprint($flipped_decimals)",
            "print(round($expr, 0))",
            "total = $flipped\nprint(round(total, 2))",
            "terms = [$bare]\nprint(int(sum(terms)))",
        ),
    ),
    "basic_arithmetic": FamilyPrograms(
        question=r"Calculate (?P<expr>[-+*() \d]+)\.",
        extend=_expression_fields,
        sentences=(
            "I will evaluate the expression.",
            "Let me calculate this.",
            "I use Python to evaluate it.",
        ),
        right=(
            "print($expr)",
            "result = $expr\nprint(result)",
            "def solve():\n    return $expr\nprint(solve())",
        ),
        wrong=(
            "print($flipped)",
            "result = $expr\nprint(result + 1)",
            "def solve():\n    return $flipped\nprint(solve())",
            "result = $expr\nprint(-result)",
        ),
    ),
    "products": FamilyPrograms(
        question=r"multiplication: (?P<a>-?\d+) \* (?P<b>-?\d+)",
        sentences=(
            "I will multiply the numbers.",
            "Let me calculate the product.",
            "I use Python for this product.",
        ),
        right=(
            "print($a * $b)",
            "import math\nprint(math.prod([$a, $b]))",
            "a = $a\nb = $b\nprint(a * b)",
            "import operator\nprint(operator.mul($a, $b))",
            "total = 0\nfor step in range($a):\n    total += $b\nprint(total)",
        ),
        wrong=(
            "print($a + $b)",
            "import math\nprint(math.prod([$a, $a]))",
            "a = $a\nb = $b\nprint(a * a)",
            "import operator\nprint(operator.add($a, $b))",
            "total = 0\nfor step in range(1, $a):\n    total += $b\nprint(total)",
        ),
    ),
    "gcd": FamilyPrograms(
        question=r"numbers: (?P<numbers>\d+(?:, \d+)+)",
        sentences=(
            "I will find the common divisor.",
            "Let me compute the GCD.",
            "I use Python to find the divisor.",
        ),
        right=(
            "import math\nprint(math.gcd($numbers))",
            "numbers = [$numbers]\n"
            "print(max(d for d in range(1, 1000) if all(n % d == 0 for n in numbers)))",
            "from math import gcd\nprint(gcd($numbers))",
            "from functools import reduce\nfrom math import gcd\nprint(reduce(gcd, [$numbers]))",
        ),
        wrong=(
            "import math\nprint(math.lcm($numbers))",
            "numbers = [$numbers]\n"
            "print(max(d for d in range(1, 1000) if any(n % d == 0 for n in numbers)))",
            "from math import gcd\nprint(gcd($numbers) + 1)",
            "from functools import reduce\nfrom math import lcm\nprint(reduce(lcm, [$numbers]))",
            "numbers = [$numbers]\nprint(min(numbers))",
        ),
    ),
    "lcm": FamilyPrograms(
        question=r"numbers: (?P<a>\d+), (?P<b>\d+)",
        sentences=(
            "I will find the common multiple.",
            "Let me compute the LCM.",
            "I use Python to find the multiple.",
        ),
        right=(
            "import math\nprint(math.lcm($a, $b))",
            "from math import gcd\nprint($a * $b // gcd($a, $b))",
            "n = $a\nwhile n % $b != 0:\n    n += $a\nprint(n)",
            "a = $a\nb = $b\nprint(min(n for n in range(a, a * b + 1, a) if n % b == 0))",
        ),
        wrong=(
            "import math\nprint(math.gcd($a, $b))",
            "from math import gcd\nprint($a * $b // gcd($a, $a))",
            "n = $a\nwhile n % $b == 0:\n    n += $a\nprint(n)",
            "a = $a\nb = $b\nprint(max(n for n in range(a, a * b, a) if n % a == 0))",
            "import math\nprint(math.lcm($a, $b + 1))",
        ),
    ),
    "prime_factorization": FamilyPrograms(
        question=r"factorization of (?P<n>\d+)",
        sentences=(
            "I will divide out the primes.",
            "Let me factor the number.",
            "I use Python to find the factors.",
        ),
        right=(
            "n = $n\nd = 2\nfactors = []\nwhile n > 1:\n    if n % d:\n        d += 1\n    else:\n"
            '        factors.append(str(d))\n        n //= d\nprint(" \u00d7 ".join(factors))',
            "n = $n\nfactors = []\nfor d in range(2, n + 1):\n    while n % d == 0:\n"
            "        factors.append(str(d))\n"
            '        n //= d\nprint(" \u00d7 ".join(factors))',
        ),
        wrong=(
            "n = $n\nd = 2\nfactors = []\nwhile n > d:\n    if n % d:\n        d += 1\n    else:\n"
            '        factors.append(str(d))\n        n //= d\nprint(" \u00d7 ".join(factors))',
            "n = $n\nfactors = []\nfor d in range(2, n + 1):\n    if n % d == 0:\n"
            "        factors.append(str(d))\n"
            '        n //= d\nprint(" \u00d7 ".join(factors))',
            "n = $n\nfactors = []\nfor d in range(1, n + 1):\n    if n % d == 0:\n"
            "        factors.append(str(d))\n"
            'print(" \u00d7 ".join(factors))',
        ),
    ),
    "count_primes": FamilyPrograms(
        question=r"between (?P<a>\d+) and (?P<b>\d+)",
        sentences=(
            "I will count the primes.",
            "Let me test each number.",
            "I use Python to count them.",
        ),
        right=(
            "count = 0\nfor n in range($a, $b + 1):\n"
            "    if n > 1 and all(n % d for d in range(2, n)):\n"
            "        count += 1\nprint(count)",
            "def is_prime(n):\n    return n > 1 and all(n % d for d in range(2, n))\n"
            "print(sum(is_prime(n) for n in range($a, $b + 1)))",
            "primes = [n for n in range($a, $b + 1) if n > 1 and all(n % d for d in range(2, n))]\n"
            "print(len(primes))",
        ),
        wrong=(
            "count = 0\nfor n in range($a, $b + 1):\n"
            "    if n > 1 and any(n % d for d in range(2, n)):\n"
            "        count += 1\nprint(count)",
            "def is_prime(n):\n    return n > 1 and all(n % d for d in range(2, 5))\n"
            "print(sum(is_prime(n) for n in range($a, $b + 1)))",
            "primes = [n for n in range($a, $b + 1) if n > 1 and all(n % d for d in range(2, n))]\n"
            "print(sum(primes))",
            "count = 0\nfor n in range($a, $b):\n"
            "    if n > 1 and all(n % d for d in range(1, n)):\n"
            "        count += 1\nprint(count)",
        ),
    ),
    "count_bits": FamilyPrograms(
        question=r"the number (?P<n>\d+)",
        sentences=(
            "I will count the bits.",
            "Let me look at the binary form.",
            "I use Python to count the ones.",
        ),
        right=(
            'print(bin($n).count("1"))',
            "n = $n\nprint(n.bit_count())",
            "n = $n\ncount = 0\nwhile n:\n    count += n & 1\n    n >>= 1\nprint(count)",
            'bits = format($n, "b")\nprint(sum(int(bit) for bit in bits))',
        ),
        wrong=(
            'print(bin($n).count("0"))',
            "n = $n\nprint(n.bit_length())",
            "n = $n\ncount = 0\nwhile n:\n    count += 1\n    n >>= 1\nprint(count)",
            'bits = format($n, "b")\nprint(len(bits))',
        ),
    ),
    "fraction_simplification": FamilyPrograms(
        question=r"fraction \$?(?P<a>\d+)/(?P<b>\d+)",
        sentences=(
            "I will reduce the fraction.",
            "Let me simplify it.",
            "I use Python to reduce it.",
        ),
        right=(
            "from fractions import Fraction\nprint(Fraction($a, $b))",
            'import math\ng = math.gcd($a, $b)\nprint(f"{$a // g}/{$b // g}")',
            'from math import gcd\na = $a\nb = $b\nprint(a // gcd(a, b), b // gcd(a, b), sep="/")',
        ),
        wrong=(
            "from fractions import Fraction\nprint(Fraction($b, $a))",
            'import math\ng = math.gcd($a, $b)\nprint(f"{$b // g}/{$a // g}")',
            'from math import gcd\na = $a\nb = $b\nprint(a // gcd(a, b), b, sep="/")',
            'import math\ng = math.lcm($a, $b)\nprint(f"{g // $a}/{g // $b}")',
        ),
    ),
    "base_conversion": FamilyPrograms(
        question=r"the (?P<source>base-\d+|binary|hexadecimal) number (?P<digits>\w+) to "
        r"(?P<target>base-\d+|binary|hexadecimal)",
        extend=_base_fields,
        sentences=(
            "I will convert the number.",
            "Let me change the base.",
            "I use Python to convert it.",
        ),
        right=(
            'n = int("$digits", $source)\ndigits = ""\nwhile n:\n'
            "    digits = str(n % $target) + digits\n"
            "    n //= $target\nprint(digits)",
            'n = int("$digits", $source)\ndigits = []\nwhile n > 0:\n'
            "    n, r = divmod(n, $target)\n"
            '    digits.append(str(r))\nprint("".join(reversed(digits)))',
        ),
        wrong=(
            'n = int("$digits", 10)\ndigits = ""\nwhile n:\n'
            "    digits = str(n % $target) + digits\n"
            "    n //= $target\nprint(digits)",
            'n = int("$digits", $source)\ndigits = []\nwhile n > 0:\n'
            "    n, r = divmod(n, $target)\n"
            '    digits.append(str(r))\nprint("".join(digits))',
            'n = int("$digits", $source)\nprint(n)',
        ),
    ),
    "simple_equations": FamilyPrograms(
        question=r": (?P<left>[-+*\w ]+) = (?P<right>-?\d+)",
        extend=_equation_fields,
        sentences=(
            "I will solve the equation.",
            "Let me try the values.",
            "I use Python to solve it.",
        ),
        right=(
            "for x in range(1, 100):\n    if $left == $right:\n        print(x)",
            "print([x for x in range(100) if $left == $right][0])",
            "def f(x):\n    return $left\nprint(($right - f(0)) // (f(1) - f(0)))",
        ),
        wrong=(
            "for x in range(1, 100):\n    if $left == $right:\n        print(x + 1)",
            "print([x for x in range(100) if $left != $right][0])",
            "def f(x):\n    return $left\nprint(($right - f(1)) // (f(1) - f(0)))",
            "for x in range(1, 100):\n    if $left == $right:\n        print(-x)",
        ),
    ),
}
"""Family name (a key of `cleaner_env.tasks.families.FAMILIES`) -> its programs."""
