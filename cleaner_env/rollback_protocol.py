"""What SAARWrapper needs from an environment, and how little of it the environment must provide.

A Gymnasium environment can be rolled back if its actions are the text of a turn, its observations
are the text of the answer, and its ``info`` has these keys after a step:

=================  ===============================================================================
``call_ok``        True if the turn's call worked, False if it failed; absent, or None, if the
                   turn had no call
``error_class``    optional: the kind of failure, for the audit records
``messages``       optional, after ``reset``: the chat messages with which the episode begins;
                   otherwise the observation is the user's first message
``family``         optional: the kind of problem, for statistics
=================  ===============================================================================

It also needs an attribute ``format`` (or the wrapper needs this argument): an object whose
``parse(text)`` says where in a turn the call is, by a ``ParsedTurn``.

If failed calls leave traces in the environment, it must have a method ``retract()``, which undoes
the last step, whose call failed.

``CodeToolEnv`` has everything else itself. ``SAARWrapper`` wraps an environment that lacks it in an
``EpisodeKeeper``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import gymnasium as gym

from cleaner_env.completion import Completion
from cleaner_env.episode import Episode, Turn
from cleaner_env.formats.protocol import ParsedTurn
from cleaner_env.task import Task

StepResult = tuple[str, Any, bool, bool, dict[str, Any]]

NEEDED = ("format", "exceeds_budget", "retract", "annotate", "truncate")
"""The attributes of ``RollbackEnv``, except ``episode``, which exists only after ``reset``."""


class TurnFormat(Protocol):
    """Finds the call in a turn."""

    def parse(self, text: str) -> ParsedTurn:
        """Read a turn. Never raises."""
        ...


class RollbackEnv(Protocol):
    """What ``SAARWrapper`` calls on the environment."""

    @property
    def episode(self) -> Episode:
        """The current episode's buffer, one turn longer after each step."""
        ...

    @property
    def format(self) -> TurnFormat:
        """How turns are read."""
        ...

    def exceeds_budget(self, action: str) -> bool:
        """Whether the turn ran, or would run, into a length budget."""
        ...

    def retract(self) -> Turn:
        """Remove the last turn from the history, and undo its effects."""
        ...

    def annotate(self, note: str) -> StepResult:
        """Append a line to the last observation, and return what ``step`` returns."""
        ...

    def truncate(self) -> StepResult:
        """End the episode, and return what ``step`` returns."""
        ...


class EpisodeKeeper(gym.Wrapper[str, str, str, str], gym.utils.RecordConstructorArgs):
    """Keeps the episode buffer for an environment that has none; see the text of this module.

    ``info["messages"]`` and ``info["turn"]`` are the buffer's. A turn that was cut off during
    sampling truncates the episode and never reaches the environment. Turns are read by ``format``,
    by default ``env.format``.
    """

    def __init__(self, env: gym.Env[str, str], format: TurnFormat | None = None) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, format=format, _disable_deepcopy=True)
        super().__init__(env)
        if format is None and not env.has_wrapper_attr("format"):
            raise TypeError(
                f"{type(env.unwrapped).__name__} has no attribute 'format' that finds the call in "
                "a turn; give SAARWrapper one, as in SAARWrapper(env, format=...)"
            )
        self.format: TurnFormat = format or env.get_wrapper_attr("format")
        self._undo = env.get_wrapper_attr("retract") if env.has_wrapper_attr("retract") else None
        self._episode: Episode | None = None

    @property
    def episode(self) -> Episode:
        """The current episode's buffer."""
        if self._episode is None:
            raise gym.error.ResetNeeded("no episode yet: call reset() first")
        return self._episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode and its buffer."""
        observation, info = self.env.reset(seed=seed, options=options)
        _require_text(self.env, observation)
        task = Task(observation, answer="", family=info.get("family", "custom"))
        prompt = info.get("messages") or [{"role": "user", "content": observation}]
        self._episode = Episode(task, list(prompt))
        return observation, self._info(info)

    def step(self, action: str) -> StepResult:
        """Take one turn and keep it.

        Raises:
            gym.error.ResetNeeded: there is no running episode.
            ValueError: the environment reports a call where the format finds none.
        """
        episode = self.episode
        if episode.terminated or episode.truncated:
            raise gym.error.ResetNeeded("the episode is over: call reset() first")
        completion = Completion.of(action)
        turn = Turn(completion, self.format.parse(completion))
        if completion.truncated:
            episode.commit(turn, self.format.parse)
            return self.truncate()
        observation, reward, terminated, truncated, info = self.env.step(completion)
        _require_text(self.env, observation)
        turn = self._answered(turn, observation, info)
        episode.commit(turn, self.format.parse)
        episode.reward = float(reward)
        episode.terminated, episode.truncated = terminated, truncated
        return observation, reward, terminated, truncated, self._info(info)

    def _answered(self, turn: Turn, observation: str, info: dict[str, Any]) -> Turn:
        """The turn with the environment's answer."""
        ok = info.get("call_ok")
        if ok is not None and not turn.parsed.has_call:
            raise ValueError(
                f"the environment reports call_ok={ok} for a turn in which "
                f"{type(self.format).__name__} finds no call: {turn.text!r}; the format must be "
                "the one that the environment reads"
            )
        if ok is None:
            return replace(turn, observation=observation or None)
        error_class = "" if ok else str(info.get("error_class") or "CallFailed")
        return replace(turn, observation=observation, ok=bool(ok), error_class=error_class)

    def exceeds_budget(self, action: str) -> bool:
        """Whether the turn was cut off during sampling; there is no other budget here."""
        return Completion.of(action).truncated

    def retract(self) -> Turn:
        """Remove the last turn from the history, and let the environment undo it if it can."""
        if self._undo is not None:
            self._undo()
        return self.episode.turns.pop()

    def annotate(self, note: str) -> StepResult:
        """Append a line to the last observation, and return what ``step`` returns."""
        self.episode.turns[-1] = self.episode.turns[-1].with_note(note)
        return self._result()

    def truncate(self) -> StepResult:
        """End the episode, and return what ``step`` returns."""
        self.episode.truncated = True
        return self._result()

    def _result(self) -> StepResult:
        episode, turn = self.episode, self.episode.turns[-1]
        info: dict[str, Any] = {"error_class": turn.error_class}
        if turn.ok is not None:
            info["call_ok"] = turn.ok
        ended = episode.terminated, episode.truncated
        return turn.observation or "", 0.0, *ended, self._info(info)

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        """The environment's info with the messages of the buffer."""
        episode = self.episode
        return {**info, "messages": episode.messages, "turn": len(episode.turns)}


def _require_text(env: gym.Env[str, str], observation: object) -> None:
    if not isinstance(observation, str):
        raise TypeError(
            f"{type(env.unwrapped).__name__} returns a {type(observation).__name__}; rollback "
            "needs observations that are text (use a gymnasium.ObservationWrapper)"
        )
