"""Episode: the buffer of one episode, both as sampled and purified, with its audit trail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from cleaner_env.completion import Completion
from cleaner_env.formats.protocol import ParsedTurn
from cleaner_env.task import Task

Outcome = Literal["recovered", "retry", "exhausted", "gave_up", "cut_off"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the assistant and its outcome.

    Attributes:
        observation: the tool's answer; None if nothing was executed.
        ok: whether the call succeeded; None if nothing was executed.
        error_class: why it failed, such as ``NameError`` or ``ToolCallError``; "" otherwise.
        note: what SAAR added to the tool's answer, at the end of ``observation``; "" otherwise.
        masked: True for a failed turn that stays in the history but is left out of the loss.
    """

    completion: Completion
    parsed: ParsedTurn
    observation: str | None = None
    ok: bool | None = None
    error_class: str = ""
    note: str = ""
    masked: bool = False

    @property
    def text(self) -> str:
        """The whole turn."""
        return str(self.completion)

    @property
    def reasoning(self) -> str:
        """The text before the call."""
        return self.parsed.reasoning

    @property
    def code(self) -> str | None:
        """The program; None if there is no call, or if it could not be parsed."""
        return self.parsed.code

    @property
    def failed(self) -> bool:
        """Whether a call was made and the program (or the parsing of the call) failed."""
        return self.ok is False

    @property
    def retry(self) -> int:
        """0 for a first attempt, k for a call that came from the k-th lookahead."""
        return self.completion.retry

    @property
    def token_count(self) -> int:
        """The number of tokens sampled for the turn; 0 for plain text."""
        return 0 if self.completion.tokens is None else len(self.completion.tokens)

    def with_note(self, note: str) -> Turn:
        """The turn with another line at the end of the tool's answer."""
        return replace(self, observation=f"{self.observation}\n{note}", note=note)


@dataclass(frozen=True, slots=True)
class RollbackRecord:
    """What happened in one lookahead.

    Attributes:
        position: index of the turn in the purified history.
        retry: the number of this lookahead at its position, from 1.
        failed: the failed turn that the agent was shown.
        answer: the turn with which it answered, as sampled.
        outcome: ``recovered`` (spliced, and the new call works), ``retry`` (spliced, failed again,
            another lookahead follows), ``exhausted`` (spliced, failed again, no retries left),
            ``gave_up`` (the answer has no call), ``cut_off`` (a length budget ended the episode).
        purified: the spliced turn; None if nothing was spliced.
        decision: ``shallow`` or ``deep``; None if nothing was spliced.
        similarity: the similarity of the two calls; None if nothing was spliced.
    """

    position: int
    retry: int
    failed: Turn
    answer: Turn
    outcome: Outcome
    purified: Turn | None = None
    decision: Literal["shallow", "deep"] | None = None
    similarity: float | None = None

    @property
    def error_class(self) -> str:
        """The error class of the failed call that started the lookahead."""
        return self.failed.error_class

    @property
    def tokens_discarded(self) -> int:
        """Tokens of the two turns that are not in the history; 0 for plain text."""
        if self.outcome == "gave_up":
            return 0
        if self.purified is None:
            return self.answer.token_count
        return self.failed.token_count + self.answer.token_count - self.purified.token_count


@dataclass(frozen=True, slots=True)
class EpisodeStats:
    """Counts over one episode.

    ``triggered == recovered + exhausted + gave_up + cut_off`` counts positions, while ``shallow``
    and ``deep`` count splices, of which a position may have several. ``calls`` and ``failures``
    count all calls that were executed or refused, including those that splices removed. Token
    counts are zero for agents that send plain text.
    """

    turns: int = 0
    calls: int = 0
    failures: int = 0
    first_attempt_calls: int = 0
    first_attempt_successes: int = 0
    triggered: int = 0
    recovered: int = 0
    exhausted: int = 0
    gave_up: int = 0
    cut_off: int = 0
    shallow: int = 0
    deep: int = 0
    tokens_sampled: int = 0
    tokens_discarded: int = 0


@dataclass(slots=True)
class Episode:
    """The buffer of one episode. ``turns`` is the purified history, on which the agent is trained.

    Attributes:
        prompt: the messages before the first turn.
        raw_turns: every turn as the agent sent it, in order, including those that splices removed.
        rollbacks: one record for each lookahead.
        rollback: whether rollback was on when the episode began.
        answer: the final answer; None before there is one, or if none could be found.
        score: the scorer's verdict in [0, 1].
        reward: the reward of the last step.
        terminated: whether a turn without a call ended the episode.
        truncated: whether a budget ended it.
        faulted: whether the sandbox broke during the episode; the player sets this and leaves the
            episode out of every count.
        max_observation_chars: the length at which the environment cuts the tool's answers, for
            ``replay``; None if they do not come from a sandbox.
        stateful: whether its programs shared variables.
    """

    task: Task
    prompt: list[dict[str, str]]
    turns: list[Turn] = field(default_factory=list)
    raw_turns: list[Turn] = field(default_factory=list)
    rollbacks: list[RollbackRecord] = field(default_factory=list)
    rollback: bool = False
    answer: str | None = None
    score: float = 0.0
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    faulted: bool = False
    max_observation_chars: int | None = None
    stateful: bool = False

    def commit(self, turn: Turn, parse: Callable[[str], ParsedTurn]) -> None:
        """Append a purified turn to the history, and what the agent really sent to the raw turns.

        ``parse`` reads the text that was sent if a splice changed it.
        """
        raw = turn.completion.raw
        self.turns.append(turn)
        if raw is not turn.completion:
            sent = Completion(str(raw), raw.tokens, truncated=raw.truncated, retry=turn.retry)
            turn = replace(turn, completion=sent, parsed=parse(raw))
        self.raw_turns.append(turn)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The history as chat messages, as the agent is shown it next."""
        messages = list(self.prompt)
        for turn in self.turns:
            messages.append({"role": "assistant", "content": turn.text})
            if turn.observation is not None:
                role = "user" if turn.ok is None else "tool"
                messages.append({"role": role, "content": turn.observation})
        return messages

    @property
    def correct(self) -> bool:
        """Whether the scorer gave full marks."""
        return self.score >= 1.0

    @property
    def first_call_failed(self) -> bool | None:
        """Whether the first call of the episode failed; None if there was no call."""
        for turn in self.raw_turns:
            if turn.ok is not None:
                return turn.failed
        return None

    @property
    def stats(self) -> EpisodeStats:
        """The episode's counts, taken from its turns and records."""
        calls = [turn for turn in self.raw_turns if turn.ok is not None]
        first = [turn for turn in calls if turn.retry == 0]
        outcomes = Counter(record.outcome for record in self.rollbacks)
        decisions = Counter(record.decision for record in self.rollbacks)
        sampled = sum(turn.token_count for turn in self.raw_turns)
        return EpisodeStats(
            turns=len(self.turns),
            calls=len(calls),
            failures=sum(turn.failed for turn in calls),
            first_attempt_calls=len(first),
            first_attempt_successes=sum(not turn.failed for turn in first),
            triggered=sum(record.retry == 1 for record in self.rollbacks),
            recovered=outcomes["recovered"],
            exhausted=outcomes["exhausted"],
            gave_up=outcomes["gave_up"],
            cut_off=outcomes["cut_off"],
            shallow=decisions["shallow"],
            deep=decisions["deep"],
            tokens_sampled=sampled,
            tokens_discarded=sampled - sum(turn.token_count for turn in self.turns),
        )
