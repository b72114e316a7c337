"""Rewards: find the answer in a turn, score it, and combine what an episode earns.

``extraction`` finds answers, ``scorers`` compares them (``equivalence`` and ``grader`` for
mathematics, ``code_tests`` for programs), and ``reward`` combines the verdict with further terms.
"""

from __future__ import annotations

from cleaner_env.rewards.encoded_tests import EncodedTests
from cleaner_env.rewards.extraction import extract_boxed, extract_code
from cleaner_env.rewards.grader import GRADER, Grader, GraderError, GraderHealth, GraderWarning
from cleaner_env.rewards.reward import (
    Ended,
    FormatTerm,
    OverlongTerm,
    Reward,
    ScorerError,
    Term,
    ToolTerm,
    overlong_penalty,
)
from cleaner_env.rewards.scorers import SCORERS, Scorer, check_reward, score

__all__ = [
    "GRADER",
    "SCORERS",
    "EncodedTests",
    "Ended",
    "FormatTerm",
    "Grader",
    "GraderError",
    "GraderHealth",
    "GraderWarning",
    "OverlongTerm",
    "Reward",
    "Scorer",
    "ScorerError",
    "Term",
    "ToolTerm",
    "check_reward",
    "extract_boxed",
    "extract_code",
    "overlong_penalty",
    "score",
]
