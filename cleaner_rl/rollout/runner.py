"""Runner: an episode that is asked for, is being played, or has been played."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cleaner_env.completion import Completion
from cleaner_env.episode import Episode
from cleaner_env.interpreter import SandboxError
from cleaner_env.rewards import GraderError
from cleaner_env.saar import SAARWrapper
from cleaner_env.task import Task
from cleaner_rl.errors import OutageError

_STEP_ATTEMPTS = 2
"""How often a step is tried whose sandbox broke (each try has the sandbox's own retries)."""


@dataclass(frozen=True, slots=True)
class Job:
    """An episode to be played.

    Attributes:
        index: its number among the episodes of a rollout.
        task: the problem.
        seed: of its rollback draw and of its sampling; no two jobs should share it.
        turns: sampled for it before an interruption, to be stepped through again first.
    """

    index: int
    task: Task
    seed: int
    turns: Sequence[Completion] = ()


@dataclass(frozen=True, slots=True)
class FinishedEpisode:
    """An episode that has ended.

    Attributes:
        job: what was asked for.
        episode: what came of it; ``faulted`` when the sandbox spoilt it.
        seconds: from its beginning to its end, other episodes being played beside it.
    """

    job: Job
    episode: Episode
    seconds: float


@dataclass(slots=True)
class EpisodeRunner:
    """An environment and the episode that is played in it.

    Attributes:
        number: which of the environments.
        env: the environment.
        job: the episode that is played.
        info: what the last step gave.
        began: ``time.monotonic()`` at the episode's beginning.
        prompt_ids: of its prompt, for players that need them.
        over: it has ended.
        fault: why the sandbox spoilt it.
    """

    number: int
    env: SAARWrapper
    job: Job
    info: dict[str, Any]
    began: float
    prompt_ids: Sequence[int] = ()
    over: bool = False
    fault: SandboxError | None = None

    @classmethod
    def begin(cls, number: int, env: SAARWrapper, job: Job) -> EpisodeRunner:
        """Begin the job's episode, and step it as far as it was played before."""
        began = time.monotonic()
        _, info = env.reset(seed=job.seed, options={"task": job.task})
        runner = cls(number, env, job, info, began)
        for turn in job.turns:
            if not runner.over:
                runner.step(turn)
        return runner

    def step(self, turn: Completion) -> None:
        """Take a turn, which may end the episode. A broken sandbox spoils it."""
        for _ in range(_STEP_ATTEMPTS):
            try:
                _, _, terminated, truncated, self.info = self.env.step(turn)
                self.over = bool(terminated or truncated)
                return
            except SandboxError as error:
                self.fault = error
            except GraderError as error:
                raise OutageError(f"answers cannot be compared: {error}") from error
        self.env.episode.faulted = True
        self.over = True

    def finished(self) -> FinishedEpisode:
        """The episode that has ended here."""
        return FinishedEpisode(self.job, self.env.episode, time.monotonic() - self.began)
