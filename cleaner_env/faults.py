"""Faults: what the sandbox, a scorer or a reward spoils, and how much of that is too much."""

from __future__ import annotations

from collections.abc import Sequence

from cleaner_env.env import CodeToolEnv
from cleaner_env.interpreter import SandboxError
from cleaner_env.rewards import ScorerError, TermError
from cleaner_env.rollback_protocol import StepResult
from cleaner_env.saar import SAARWrapper

_MAX_FAULTED = 0.05
"""Share of episodes that may be spoilt before a rollout is stopped."""
_STEP_ATTEMPTS = 2
"""How often a step is tried when the sandbox breaks, on top of the sandbox's own retries."""


def try_step(
    env: SAARWrapper | CodeToolEnv, turn: str
) -> tuple[StepResult | None, Exception | None]:
    """The step's result and the last error, of which a second attempt may have mended the first.

    Without a result the episode is spoilt, and ``faulted`` is set.
    """
    fault: Exception | None = None
    for _ in range(_STEP_ATTEMPTS):
        try:
            return env.step(turn), fault
        except (SandboxError, ScorerError) as error:
            fault = error
        except TermError as error:  # the episode has ended
            fault = error
            break
    env.episode.faulted = True
    return None, fault


def check_faults(faults: Sequence[Exception | None], episodes: int) -> None:
    """Stop a rollout in which so many episodes were spoilt that the sandbox or a scorer is broken.

    Raises:
        SandboxError: more than one episode, and more than 5%, were spoilt.
    """
    if len(faults) > max(1, _MAX_FAULTED * episodes):
        raise SandboxError(
            f"the sandbox or a scorer spoilt {len(faults)} of {episodes} episodes ({faults[0]}); "
            "none of these was scored. Check the sandbox with: python -m sandbox doctor"
        )
