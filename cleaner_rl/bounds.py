"""Bounds: the most that one episode can take, whatever the policy and the programs do."""

from __future__ import annotations

from dataclasses import dataclass

from cleaner_rl.config import TrainConfig

_ROLLS_BACK = ("on", "shallow-only", "deep-only")


@dataclass(frozen=True, slots=True)
class EpisodeBounds:
    """Upper bounds of an episode.

    Attributes:
        turns: sampled, lookaheads included.
        tokens: sampled, discarded ones included.
        programs: that are run.
        program_seconds: wall time in which they run, one after the other.
    """

    turns: int
    tokens: int
    programs: int
    program_seconds: float


def episode_bounds(config: TrainConfig) -> EpisodeBounds:
    """What ends every episode: turns, retries at each of them, tokens a turn, seconds a program.

    A lookahead takes no place in the history, so each of the ``max_turns`` positions may see
    ``max_retries`` further turns, but for the last, whose turn ends the episode.
    """
    retries = config.max_retries if config.saar in _ROLLS_BACK else 0
    turns = (config.max_turns - 1) * (1 + retries) + 1
    programs = turns * config.max_calls
    return EpisodeBounds(
        turns=turns,
        tokens=turns * min(config.max_turn_tokens, config.max_response_tokens),
        programs=programs,
        program_seconds=programs * config.code_seconds,
    )
