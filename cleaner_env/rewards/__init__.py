"""Rewards: find the answer in a turn, score it, and add up what an episode earns.

``extraction`` finds answers, ``scorers`` score them, and ``reward`` adds further terms; ``own``
loads rewards of a user's own. Two scorers need more:

- mathematics: ``equivalence`` compares, with ``notation``, ``elements``, ``numbers`` and ``units``
  for what answers are made of, and math-verify behind ``grader`` and ``grader_worker``.
- programs: ``code_tests`` judges them by tests, of which ``checks`` runs those with assertions, and
  ``livecodebench`` and ``encoded_tests`` follow that benchmark.
"""

from __future__ import annotations

from cleaner_env.rewards.encoded_tests import EncodedTests
from cleaner_env.rewards.extraction import extract_boxed, extract_code
from cleaner_env.rewards.grader import GRADER, Grader, GraderError, GraderHealth, GraderWarning
from cleaner_env.rewards.own import load_reward
from cleaner_env.rewards.reward import (
    Ended,
    FormatTerm,
    OverlongTerm,
    Reward,
    ScorerError,
    Term,
    TermError,
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
    "TermError",
    "ToolTerm",
    "check_reward",
    "extract_boxed",
    "extract_code",
    "load_reward",
    "overlong_penalty",
    "score",
]
