"""Reward: what an episode earns, the verdict on its answer plus further terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from cleaner_env.rewards.grader import GraderError
from cleaner_env.rewards.scorers import SCORERS, Scorer, check_reward
from cleaner_env.task import Task
from sandbox import SandboxError
from sandbox.judge import Runner

if TYPE_CHECKING:
    from cleaner_env.episode import Episode


class ScorerError(Exception):
    """A scorer could not cope with an answer, or with its task: nothing has been scored."""


@dataclass(frozen=True, slots=True)
class Ended:
    """An episode that is over, as the terms of a reward see it.

    Attributes:
        episode: its purified turns, its answer and its score.
        length: of its turns and observations, in the environment's measure.
        limit: the most it may have, None without a limit.
    """

    episode: Episode
    length: int = 0
    limit: int | None = None


class Term(Protocol):
    """A part of the reward: a name for reports, and a number for an episode."""

    @property
    def name(self) -> str: ...

    def __call__(self, ended: Ended) -> float: ...


@dataclass(frozen=True, slots=True)
class FormatTerm:
    r"""A bonus for ending with an answer that can be read (``\boxed{}``, or a fenced program).

    The penalty is taken off when there is none, in truncated episodes too.
    """

    bonus: float = 0.0
    penalty: float = 0.0
    name: str = "format"

    def __call__(self, ended: Ended) -> float:
        return self.bonus if ended.episode.answer is not None else -self.penalty


@dataclass(frozen=True, slots=True)
class ToolTerm:
    """A bonus for each call, a penalty for each failed one, counted in the purified turns.

    ``ToolTerm(call=0.1, most=0.4, on="wrong")`` with ``Reward(wrong=-1)`` is the tool reward in the
    released code of CLEANER's authors: -1 + 0.1 a call, at most -0.6, when the answer is wrong.

    Attributes:
        most: bound on both sums.
        on: episodes that it applies to.
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
    """Soft overlong punishment: see ``overlong_penalty``. The environment needs a ``max_length``.

    The ``buffer`` before that limit is in the environment's measure.
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
    """What an episode earns: the outcome, ``right`` for full marks, and the sum of further terms.

    Attributes:
        wrong: for anything less, for no answer, and for truncated episodes; 0 or -1 as a rule.
        partial: a score between 0 and 1 earns its share of the way from ``wrong`` to ``right``.
        scorers: further scorers, by the name that ``Task.reward`` gives.
    """

    right: float = 1.0
    wrong: float = 0.0
    partial: bool = False
    terms: tuple[Term, ...] = ()
    scorers: Mapping[str, Scorer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.right > self.wrong:
            raise ValueError(f"right ({self.right}) must be above wrong ({self.wrong})")
        for term in self.terms:
            if not callable(term) or not isinstance(getattr(term, "name", None), str):
                raise ValueError(
                    f"a term has a name and is called with an Ended; {term!r} does not"
                )

    def check(self, task: Task) -> None:
        """Raise ValueError when the task's answers cannot be scored."""
        check_reward(task, {**SCORERS, **self.scorers})

    def runs_programs(self, task: Task) -> bool:
        """Whether ``judge`` needs a sandbox for this task."""
        return self._scorer(task).runs_programs

    def judge(self, text: str, task: Task, runner: Runner | None) -> tuple[str | None, float]:
        """The answer in the last turn's text, None without one, and its score in [0, 1].

        Raises:
            GraderError, sandbox.SandboxError: what compares or runs answers is broken.
            ScorerError: the task's scorer raised anything else.
        """
        scorer = self._scorer(task)
        try:
            answer = scorer.extract(text)
            return answer, 0.0 if answer is None else scorer.score(answer, task, runner)
        except (GraderError, SandboxError):
            raise
        except Exception as error:
            raise ScorerError(f"the scorer {task.reward!r} raised {error!r:.500}") from error

    def _scorer(self, task: Task) -> Scorer:
        return self.scorers.get(task.reward) or SCORERS[task.reward]

    def breakdown(self, ended: Ended) -> dict[str, float]:
        """The outcome and each term of an episode, by name."""
        score = ended.episode.score if self.partial else float(ended.episode.correct)
        parts = {"outcome": self.wrong + score * (self.right - self.wrong)}
        for term in self.terms:
            parts[term.name] = parts.get(term.name, 0.0) + term(ended)
        return parts

    def __call__(self, ended: Ended) -> float:
        """What the episode earns."""
        return sum(self.breakdown(ended).values())


def overlong_penalty(length: int, limit: int, buffer: int, factor: float = 1.0) -> float:
    """What a long response costs: 0 up to ``limit - buffer``, then linearly up to ``factor``.

    Lengths are in tokens; without a buffer there is no penalty.

    Source: DAPO (2503.14476), soft overlong punishment.
    """
    if buffer <= 0:
        return 0.0
    return factor * min(1.0, max(0.0, (length - (limit - buffer)) / buffer))
