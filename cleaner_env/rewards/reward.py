"""Reward: what an episode earns, which is the verdict on its answer plus further terms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, SupportsFloat

from cleaner_env.rewards.grader import GraderError
from cleaner_env.rewards.scorers import SCORERS, Scorer, check_reward
from cleaner_env.task import Task
from sandbox import SandboxError
from sandbox.judge import Runner

if TYPE_CHECKING:
    from cleaner_env.episode import Episode


class ScorerError(Exception):
    """A scorer failed at an answer or at its task, so nothing has been scored."""


class TermError(ValueError):
    """A term of a reward failed at an episode, which has ended and has no reward."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished episode, as the terms of a reward see it.

    Attributes:
        episode: has the purified turns, the answer and its score.
        length: the length of all turns and observations, in the environment's measure.
        limit: the greatest length allowed; None without a limit.
    """

    episode: Episode
    length: int = 0
    limit: int | None = None


class Term(Protocol):
    """A part of the reward: it has a name for reports, and maps an episode to a number."""

    @property
    def name(self) -> str: ...

    def __call__(self, ended: Ended) -> float: ...


@dataclass(frozen=True, slots=True)
class FormatTerm:
    r"""A bonus for an episode that ends with a readable answer (``\boxed{}``, or a fenced program).

    The penalty is for one that does not, truncated episodes included.
    """

    bonus: float = 0.0
    penalty: float = 0.0
    name: str = "format"

    def __call__(self, ended: Ended) -> float:
        return self.bonus if ended.episode.answer is not None else -self.penalty


@dataclass(frozen=True, slots=True)
class ToolTerm:
    """A bonus for each call and a penalty for each failed one, both counted in the purified turns.

    ``ToolTerm(call=0.1, most=0.4, on="wrong")`` with ``Reward(wrong=-1)`` is the tool reward in the
    released code of CLEANER's authors: -1 + 0.1 a call, at most -0.6, when the answer is wrong.

    Attributes:
        most: the greatest sum of bonuses, and of penalties.
        on: the episodes to which it applies.
    """

    call: float = 0.0
    failure: float = 0.0
    most: float = 1.0
    on: Literal["all", "right", "wrong"] = "all"
    name: str = "tool"

    def __post_init__(self) -> None:
        if self.on not in ("all", "right", "wrong"):
            raise ValueError(f"ToolTerm.on must be 'all', 'right' or 'wrong', not {self.on!r}")

    def __call__(self, ended: Ended) -> float:
        episode = ended.episode
        if self.on != "all" and (self.on == "right") != episode.correct:
            return 0.0
        calls = [turn for turn in episode.turns if turn.ok is not None]
        failed = sum(turn.failed for turn in calls)
        return min(self.most, self.call * len(calls)) - min(self.most, self.failure * failed)


@dataclass(frozen=True, slots=True)
class OverlongTerm:
    """Soft overlong punishment; see ``overlong_penalty``.

    The environment must have a ``max_length``. The ``buffer`` before that limit is given in the
    environment's measure.
    """

    buffer: int
    factor: float = 1.0
    name: str = "overlong"

    def __call__(self, ended: Ended) -> float:
        if ended.limit is None:
            raise ValueError("OverlongTerm needs a length limit: give the environment max_length")
        return -overlong_penalty(ended.length, ended.limit, self.buffer, self.factor)


@dataclass(frozen=True, slots=True)
class Reward:
    """What an episode earns: ``right`` for full marks, or ``wrong``, plus the sum of further terms.

    Attributes:
        wrong: for anything less than full marks, no answer and truncated episodes; usually 0 or -1.
        partial: whether a score between 0 and 1 earns its share of the way to ``right``.
        scorers: further scorers, by their name in ``Task.reward``.
        scorer: judges every task, whatever scorer the task names.
    """

    right: float = 1.0
    wrong: float = 0.0
    partial: bool = False
    terms: tuple[Term, ...] = ()
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    scorer: Scorer | None = None

    def __post_init__(self) -> None:
        if not self.right > self.wrong:
            raise ValueError(f"right ({self.right}) must be above wrong ({self.wrong})")
        for term in self.terms:
            if not callable(term) or not isinstance(getattr(term, "name", None), str):
                raise ValueError(
                    f"a term has a name and is called with an Ended; {term!r} does not"
                )

    def check(self, task: Task) -> None:
        """Raise ValueError if the task's answers cannot be scored."""
        if self.scorer is None:
            check_reward(task, {**SCORERS, **self.scorers})
        else:
            self.scorer.check(task)

    def runs_programs(self, task: Task) -> bool:
        """Whether ``judge`` needs a sandbox for this task."""
        return self._scorer(task).runs_programs

    def judge(self, text: str, task: Task, runner: Runner | None) -> tuple[str | None, float]:
        """The answer in the text of the last turn, if there is one, and its score in [0, 1].

        Raises:
            GraderError, sandbox.SandboxError: what compares or runs answers is broken.
            ScorerError: the task's scorer raised anything else.
        """
        scorer = self._scorer(task)
        try:
            answer = scorer.extract(text)
        except Exception as error:
            raise ScorerError(f"the scorer {self.judge_of(task)} raised {error!r:.500}") from error
        return answer, 0.0 if answer is None else self.score(answer, task, runner)

    def score(self, answer: str, task: Task, runner: Runner | None = None) -> float:
        """The score in [0, 1] of an answer that has been found; errors are those of ``judge``."""
        try:
            score = self._scorer(task).score(answer, task, runner)
        except (GraderError, SandboxError):
            raise
        except Exception as error:
            raise ScorerError(f"the scorer {self.judge_of(task)} raised {error!r:.500}") from error
        if not isinstance(score, SupportsFloat) or not 0.0 <= float(score) <= 1.0:
            raise ScorerError(
                f"the scorer {self.judge_of(task)} returned {score!r:.100} for the answer "
                f"{answer!r:.100}; it must return a number from 0 to 1"
            )
        return float(score)

    def judge_of(self, task: Task) -> str:
        """The name of what judges the task's answers, for messages."""
        own = None if self.scorer is None else self.scorer.score
        return repr(task.reward) if own is None else getattr(own, "__qualname__", repr(own))

    def _scorer(self, task: Task) -> Scorer:
        return self.scorer or self.scorers.get(task.reward) or SCORERS[task.reward]

    def breakdown(self, ended: Ended) -> dict[str, float]:
        """The outcome and each term of an episode, by name."""
        score = ended.episode.score if self.partial else float(ended.episode.correct)
        parts = {"outcome": self.wrong + score * (self.right - self.wrong)}
        for term in self.terms:
            parts[term.name] = parts.get(term.name, 0.0) + _value(term, ended)
        return parts

    def __call__(self, ended: Ended) -> float:
        """What the episode earns."""
        return sum(self.breakdown(ended).values())


def _value(term: Term, ended: Ended) -> float:
    """What a term adds, a finite number."""
    try:
        value: Any = term(ended)
    except Exception as error:
        raise TermError(f"the term {term.name!r} raised {error!r:.500}") from error
    if not isinstance(value, SupportsFloat) or not math.isfinite(value):
        raise TermError(f"the term {term.name!r} returned {value!r:.100}, not a finite number")
    return float(value)


def overlong_penalty(length: int, limit: int, buffer: int, factor: float = 1.0) -> float:
    """What a long response costs: nothing up to ``limit - buffer``, then linearly up to ``factor``.

    Lengths are in tokens. Without a buffer there is no penalty.

    Source: DAPO (2503.14476), soft overlong punishment.
    """
    if buffer <= 0:
        return 0.0
    return factor * min(1.0, max(0.0, (length - (limit - buffer)) / buffer))
