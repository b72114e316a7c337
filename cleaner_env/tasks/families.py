"""The reasoning-gym task families the bundled policy knows, and how difficult each one is.

Every family has a short question and an answer that a program of a few lines finds once the
numbers or the word of the question are copied into it. The difficulty settings keep both short
enough for a policy of a few million parameters; larger models may be given the library's own,
harder defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


def _from_to(**ranges: tuple[int, int]) -> dict[str, Any]:
    """``min_NAME`` and ``max_NAME`` for each range."""
    pairs = ((name, zip(("min", "max"), ends, strict=True)) for name, ends in ranges.items())
    return {f"{end}_{name}": value for name, pair in pairs for end, value in pair}


FAMILIES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "chain_sum": _from_to(terms=(2, 3), digits=(1, 2)),
        "decimal_chain_sum": _from_to(terms=(2, 2), digits=(1, 2), decimal_places=(1, 1)),
        "basic_arithmetic": _from_to(terms=(3, 3), digits=(1, 2))
        | {"operators": ("+", "-", "*"), "allow_negation": False},
        "products": _from_to(terms=(2, 2), digits=(2, 3)),
        "gcd": _from_to(numbers=(2, 2), value=(10, 400)),
        "lcm": _from_to(numbers=(2, 2), value=(4, 99)),
        "prime_factorization": _from_to(value=(4, 500)),
        "count_primes": _from_to(n=(1, 200)),
        "count_bits": _from_to(n=(10, 9999)),
        "fraction_simplification": _from_to(value=(2, 40), factor=(2, 12)) | {"styles": ("plain",)},
        "base_conversion": _from_to(base=(2, 9), value=(10, 200)),
        "simple_equations": _from_to(terms=(2, 2), value=(1, 30))
        | {"operators_weights": [0.45, 0.45, 0.1]},
    }
)
"""Family name -> keyword arguments of ``reasoning_gym.create_dataset(family, **kwargs)``."""

SHORT_PROGRAMS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        **{
            name: FAMILIES[name]
            for name in (
                *("chain_sum", "basic_arithmetic", "gcd", "lcm", "prime_factorization"),
                *("count_bits", "base_conversion", "simple_equations"),
            )
        },
        "leg_counting": {"min_animals": 2, "max_animals": 5},
        "number_filtering": {"max_numbers": 6, "max_decimals": 2},
        "number_sorting": {"max_numbers": 6},
        "time_intervals": {"task_types": ("time", "time_seconds")},
    }
)
"""What ``reasoning-gym:short-programs`` means: families for a model that reads words as well, with
answers that a short program computes from the question."""

FAMILY_SETS = {"short-programs": SHORT_PROGRAMS}
"""Names that stand for several families of reasoning-gym."""
