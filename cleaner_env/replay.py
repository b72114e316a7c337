"""Replay: run a finished episode's programs again, to see whether they still answer the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cleaner_env.env import CodeToolEnv
from cleaner_env.episode import Episode, Turn
from cleaner_env.interpreter import Sandbox


@dataclass(frozen=True, slots=True)
class Difference:
    """The first turn whose program now answers differently.

    Attributes:
        position: index of the turn in the purified history.
        code: its program; None for a call that could not be parsed.
        expected: what the agent was shown, without SAAR's note.
        repeatable: whether a second replay gave the same answer as the first. True means that two
            runs agree with each other, but not with the episode. False means that the program
            itself answers differently from run to run (random numbers, the time, addresses), which
            says nothing about the episode.
    """

    position: int
    code: str | None
    expected: str
    observed: str
    repeatable: bool


def replay(episode: Episode, sandbox: Sandbox | None = None) -> Difference | None:
    """Run the purified history's programs from the beginning; None if all answers are the same.

    Turns that were never executed (the final answer, a turn over a budget) are skipped. The sandbox
    should have the limits of the episode's own; by default a new one is used and closed afterwards.

    Raises:
        ValueError: the episode's calls were not Python programs in a sandbox.
        sandbox.SandboxError: the sandbox is broken.
    """
    if episode.max_observation_chars is None:
        raise ValueError(
            "the episode does not come from a CodeToolEnv, so its calls cannot be run in a sandbox"
        )
    for position, answer in _answers(episode, sandbox):
        turn = episode.turns[position]
        expected = _answer(turn)
        if answer != expected:
            # Again from the beginning, because programs may share variables.
            again = dict(_answers(episode, sandbox, position))[position]
            return Difference(position, turn.code, expected, answer, again == answer)
    return None


def _answers(
    episode: Episode, sandbox: Sandbox | None, last: int | None = None
) -> Iterator[tuple[int, str]]:
    """Yield the position and the new answer of each executed turn, up to ``last``."""
    env = CodeToolEnv(
        [episode.task],
        sandbox=sandbox,
        max_observation_chars=episode.max_observation_chars or 0,
        stateful=episode.stateful,
    )
    try:
        for position, turn in enumerate(episode.turns[: None if last is None else last + 1]):
            if turn.ok is not None:
                yield position, _answer(env._execute(turn))
    finally:
        env.close()


def _answer(turn: Turn) -> str:
    """The tool's answer without SAAR's note."""
    observation = turn.observation or ""
    return observation.removesuffix(f"\n{turn.note}") if turn.note else observation
