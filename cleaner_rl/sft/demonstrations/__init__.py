"""Demonstrations for the cold start: tool-use episodes whose programs were really executed."""

from cleaner_rl.sft.demonstrations.books import books_for, describe_gsm8k
from cleaner_rl.sft.demonstrations.episodes import (
    Demonstration,
    DemonstrationError,
    DemonstrationMix,
    Turn,
    generate_demonstrations,
    write_demonstration,
)
from cleaner_rl.sft.demonstrations.examples import (
    IGNORED,
    Example,
    collate,
    encode_demonstration,
    length_batches,
)

__all__ = [
    "IGNORED",
    "Demonstration",
    "DemonstrationError",
    "DemonstrationMix",
    "Example",
    "Turn",
    "books_for",
    "collate",
    "describe_gsm8k",
    "encode_demonstration",
    "generate_demonstrations",
    "length_batches",
    "write_demonstration",
]
