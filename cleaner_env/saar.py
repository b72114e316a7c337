"""SAARWrapper: Similarity-Aware Adaptive Rollback on the episodes of an environment."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np

from cleaner_env.completion import Completion
from cleaner_env.episode import Episode, Outcome, RollbackRecord, Turn
from cleaner_env.formats.protocol import ParsedTurn
from cleaner_env.rollback_protocol import NEEDED, EpisodeKeeper, StepResult, TurnFormat
from cleaner_env.similarity import Similarity, resolve_similarity
from cleaner_env.splicing import Splice, splice

Mode = Literal["off", "saar", "shallow-only", "deep-only", "mask-failed"]
"""What happens to failed calls; see ``SAARWrapper``."""

_DRAW = 0x5AA2
"""Separates the wrapper's random stream from the environment's under the same seed."""


class SAARWrapper(gym.Wrapper[str, str, str, str], gym.utils.RecordConstructorArgs):
    """Replace failed calls by the agent's own corrections while an episode is collected (CLEANER).

    After a failed call, the agent is shown the history, the failed turn and its error: the
    *lookahead*. Its next turn is spliced over the failed one. If the two calls have a similarity of
    at least ``gamma``, the failed turn keeps its reasoning and gets the new call (*shallow*);
    otherwise the new turn replaces the whole failed one (*deep*). The error leaves the history, and
    the new call is executed at the same position. A lookahead without a call, or ``max_retries``
    failed splices, turn rollback off for the rest of the episode; the failed turn and its error
    then stay. A lookahead that runs into the length budget is discarded and truncates the episode;
    the failed turn stays as the last one.

    In addition to the environment's keys, ``info`` has ``lookahead``: True if the next turn answers
    a lookahead. ``info["messages"]`` is always what the agent must be shown next. ``episode`` holds
    purified turns, raw turns, one record per lookahead, and the statistics.

    The modes other than ``saar`` serve for comparison:

    ================  ==============================================================================
    ``off``           failed calls stay, as in plain GRPO
    ``shallow-only``  every splice is shallow, whatever the similarity, unless tokens cannot be
                      joined
    ``deep-only``     every splice is deep
    ``mask-failed``   failed calls stay, and their turns are ``masked``: the loss leaves them out
    ================  ==============================================================================

    Any environment will do whose actions are text and whose ``info`` reports whether a call
    worked: see ``cleaner_env.rollback_protocol``. Wrappers that count steps or rewards, such as
    TimeLimit and RecordEpisodeStatistics, belong outside this wrapper: inside it, they would also
    count turns that splices remove, and never see the end of an episode that a lookahead cut off.

    Args:
        gamma: similarity threshold, in [0, 1].
        max_retries: the most splices at one position.
        rollback_probability: share of episodes that have rollback (or masks), drawn at ``reset``.
        similarity: ``"difflib"``; ``"embedding"`` or ``"embedding:MODEL"`` (the name or directory
            of a sentence-transformers model); or a function of two strings that returns a number
            in [0, 1].
        similarity_on: ``"code"`` compares programs, as the paper says; ``"call"`` compares
            turns from the call's start to their end, the end-of-turn marker included, as the
            authors' released code does. Turns without tokens do not show their marker: it is left
            out, and the similarity is slightly lower. If a call could not be parsed and so has no
            program, ``"code"`` compares the call blocks.
        format: how turns are read, for an environment that has no ``format`` of its own.

    Source: CLEANER, arXiv 2601.15141.
    """

    def __init__(
        self,
        env: gym.Env[str, str],
        gamma: float = 0.5,
        max_retries: int = 3,
        rollback_probability: float = 1.0,
        similarity: str | Similarity = "difflib",
        similarity_on: Literal["code", "call"] = "code",
        mode: Mode = "saar",
        format: TurnFormat | None = None,
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(  # the format is in EpisodeKeeper's record
            self,
            gamma=gamma,
            max_retries=max_retries,
            rollback_probability=rollback_probability,
            similarity=similarity,
            similarity_on=similarity_on,
            mode=mode,
            _disable_deepcopy=True,
        )
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma must lie in [0, 1], not {gamma}")
        if not 0.0 <= rollback_probability <= 1.0:
            raise ValueError(f"rollback_probability must lie in [0, 1], not {rollback_probability}")
        if max_retries < 0:
            raise ValueError(f"max_retries must not be negative, but is {max_retries}")
        if similarity_on not in ("code", "call"):
            raise ValueError(f"similarity_on must be 'code' or 'call', not {similarity_on!r}")
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {get_args(Mode)}, not {mode!r}")
        self._similarity = resolve_similarity(similarity)
        super().__init__(_keeping_episodes(env, format))
        self.gamma = gamma
        self.max_retries = max_retries
        self.rollback_probability = rollback_probability
        self.similarity_on = similarity_on
        self.mode = mode
        self._threshold = {"shallow-only": -math.inf, "deep-only": math.inf}.get(mode, gamma)
        self._draws = np.random.default_rng()
        self._rollback = self._masking = False
        self._retries = 0
        self._failed: Turn | None = None

    @property
    def episode(self) -> Episode:
        """The current episode's buffer."""
        episode: Episode = self.env.get_wrapper_attr("episode")
        return episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode and draw whether it has rollback; ``seed`` restarts the draws."""
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._draws = np.random.default_rng([seed, _DRAW])
        drawn = bool(self._draws.random() < self.rollback_probability)
        self._rollback = drawn and self.mode in ("saar", "shallow-only", "deep-only")
        self._masking = drawn and self.mode == "mask-failed"
        self._retries = 0
        self._failed = None
        self.episode.rollback = self._rollback
        return observation, {**info, "lookahead": False}

    def step(self, action: str) -> StepResult:
        """Take one turn; in a lookahead, splice it over the failed turn."""
        completion = Completion.of(action)
        if self._failed is None:
            result = self.env.step(completion)
        else:
            result = self._answer_lookahead(self._failed, completion)
        return self._open_lookahead(result)

    def _open_lookahead(self, result: StepResult) -> StepResult:
        """Decide whether the turn just committed starts a lookahead."""
        observation, reward, terminated, truncated, info = result
        if truncated:  # perhaps by a wrapper that the buffer does not know about
            self.episode.truncated = True
        if self._masking:
            self._mask_failure()
        self._failed = None
        if self._rollback and not (terminated or truncated):
            self._failed = self._failure_to_show()
        info = {**info, "lookahead": self._failed is not None}
        return observation, reward, terminated, truncated, info

    def _mask_failure(self) -> None:
        """Leave the turn just committed out of the loss if its call failed."""
        episode = self.episode
        if episode.turns[-1].failed:
            episode.turns[-1] = episode.raw_turns[-1] = replace(episode.turns[-1], masked=True)

    def _failure_to_show(self) -> Turn | None:
        """The turn just committed, if it failed and may be tried again; otherwise None."""
        turn = self.episode.turns[-1]
        if not turn.failed:
            self._retries = 0
            return None
        return turn if self._retries < self.max_retries else None

    def _answer_lookahead(self, failed: Turn, answer: Completion) -> StepResult:
        """Take the agent's answer to a failed turn: cut it off, give up, or splice it."""
        self._retries += 1
        try:
            if self._env_call("exceeds_budget", answer):
                return self._cut_off(failed, answer)
            if not self._format.parse(answer).has_call:
                return self._give_up(failed, answer)
            return self._replace(failed, answer)
        except Exception:
            # For example, the sandbox broke: the step can be tried again.
            self._retries -= 1
            raise

    def _cut_off(self, failed: Turn, answer: Completion) -> StepResult:
        sent = Completion(str(answer), answer.tokens, truncated=True, retry=self._retries)
        turn = Turn(sent, self._format.parse(sent))
        self.episode.raw_turns.append(turn)
        self._record(failed, turn, "cut_off")
        self._rollback = False
        result: StepResult = self._env_call("truncate")
        return result

    def _give_up(self, failed: Turn, answer: Completion) -> StepResult:
        result = self.env.step(answer)
        self._rollback = False
        self._record(failed, self.episode.raw_turns[-1], "gave_up", position=-2)
        return result

    def _replace(self, failed: Turn, answer: Completion) -> StepResult:
        """Splice the answer over the failed turn and execute its call at the same position."""
        parsed = self._format.parse(answer)
        spliced = splice(
            failed.completion,
            failed.parsed.call_start,
            answer,
            parsed.call_start,
            similarity=self._compare(failed.completion, failed.parsed, answer, parsed),
            gamma=self._threshold,
            retry=self._retries,
        )
        self._env_call("retract")
        try:
            result = self.env.step(spliced.completion)
        except Exception:
            self.episode.turns.append(failed)
            raise
        return self._after_splice(failed, spliced, result)

    def _after_splice(self, failed: Turn, spliced: Splice, result: StepResult) -> StepResult:
        observation, reward, terminated, truncated, info = result
        turn = self.episode.turns[-1]
        outcome: Outcome = "recovered"
        if turn.failed and truncated:
            outcome = "cut_off"
        elif turn.failed and self._retries < self.max_retries:
            outcome = "retry"
        elif turn.failed:
            outcome = "exhausted"
        self._record(failed, self.episode.raw_turns[-1], outcome, spliced=spliced)
        if outcome == "exhausted":
            self._rollback = False
            if self._retries >= 2:
                noted = self._env_call("annotate", exhausted_note(self._retries + 1))
                observation, truncated, info = noted[0], noted[3], {**info, **noted[4]}
        return observation, reward, terminated, truncated, info

    def _record(
        self,
        failed: Turn,
        answer: Turn,
        outcome: Outcome,
        *,
        spliced: Splice | None = None,
        position: int = -1,
    ) -> None:
        """Add an audit record; ``position`` counts from the end of the history."""
        self.episode.rollbacks.append(
            RollbackRecord(
                position=len(self.episode.turns) + position,
                retry=self._retries,
                failed=failed,
                answer=answer,
                outcome=outcome,
                purified=None if spliced is None else self.episode.turns[-1],
                decision=None if spliced is None else spliced.decision,
                similarity=None if spliced is None else spliced.similarity,
            )
        )

    def _compare(
        self, failed: Completion, call: ParsedTurn, answer: Completion, corrected: ParsedTurn
    ) -> float:
        """The similarity of two calls: that of their programs, or of their blocks."""
        parts = call.call or "", corrected.call or ""
        if self.similarity_on == "call":
            parts = _from_call(failed, call), _from_call(answer, corrected)
        elif call.code is not None and corrected.code is not None:
            parts = call.code, corrected.code
        similarity = float(self._similarity(*parts))
        if not 0.0 <= similarity <= 1.0:
            raise ValueError(
                f"the similarity function returned {similarity} for {parts[0]!r} and {parts[1]!r}; "
                "it must return a number in [0, 1]"
            )
        return similarity

    @property
    def _format(self) -> TurnFormat:
        format: TurnFormat = self.env.get_wrapper_attr("format")
        return format

    def _env_call(self, name: str, *args: Any) -> Any:
        """Call one of the environment's methods that a rollback needs."""
        return self.env.get_wrapper_attr(name)(*args)


def _from_call(turn: Completion, parsed: ParsedTurn) -> str:
    """A turn from its call to its end, where tokens show the marker of the end with that marker."""
    text = turn if turn.tokens is None else turn.tokens.decode(turn.tokens.ids)
    return text[parsed.call_start :]


def exhausted_note(attempts: int) -> str:
    """What the model is told when the retries at a position are used up."""
    return f"This approach has failed {attempts} times. Try another approach."


def _keeping_episodes(env: gym.Env[str, str], format: TurnFormat | None) -> gym.Env[str, str]:
    """The environment itself if it can be rolled back, otherwise an ``EpisodeKeeper`` around it."""
    if not isinstance(env, gym.Env):
        raise TypeError(f"SAARWrapper wraps a gymnasium.Env, not a {type(env).__name__}")
    if not all(env.has_wrapper_attr(name) for name in NEEDED):
        return EpisodeKeeper(env, format)
    if format is not None and format is not env.get_wrapper_attr("format"):
        raise ValueError(
            f"{type(env.unwrapped).__name__} has its own format; give the format to the "
            "environment, not to SAARWrapper"
        )
    return env
