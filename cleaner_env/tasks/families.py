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

__all__ = ["FAMILIES", "FAMILY_SETS", "SHORT_PROGRAMS"]

FAMILIES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "chain_sum": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2},
        "decimal_chain_sum": {
            "min_terms": 2,
            "max_terms": 2,
            "min_digits": 1,
            "max_digits": 2,
            "min_decimal_places": 1,
            "max_decimal_places": 1,
        },
        "basic_arithmetic": {
            "min_terms": 3,
            "max_terms": 3,
            "min_digits": 1,
            "max_digits": 2,
            "operators": ("+", "-", "*"),
            "allow_negation": False,
        },
        "products": {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 3},
        "gcd": {"min_numbers": 2, "max_numbers": 2, "min_value": 10, "max_value": 400},
        "lcm": {"min_numbers": 2, "max_numbers": 2, "min_value": 4, "max_value": 99},
        "prime_factorization": {"min_value": 4, "max_value": 500},
        "count_primes": {"min_n": 1, "max_n": 200},
        "count_bits": {"min_n": 10, "max_n": 9999},
        "fraction_simplification": {
            "min_value": 2,
            "max_value": 40,
            "min_factor": 2,
            "max_factor": 12,
            "styles": ("plain",),
        },
        "base_conversion": {"min_base": 2, "max_base": 9, "min_value": 10, "max_value": 200},
        "simple_equations": {
            "min_terms": 2,
            "max_terms": 2,
            "min_value": 1,
            "max_value": 30,
            "operators_weights": [0.45, 0.45, 0.1],
        },
    }
)
"""Family name -> keyword arguments of ``reasoning_gym.create_dataset(family, **kwargs)``."""

SHORT_PROGRAMS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        **{
            name: FAMILIES[name]
            for name in ("chain_sum", "basic_arithmetic", "gcd", "lcm", "prime_factorization")
        },
        **{name: FAMILIES[name] for name in ("count_bits", "base_conversion", "simple_equations")},
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
