"""Runner: an episode before (job), while (runner) and after (finished) it is played."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cleaner_env.completion import Completion
from cleaner_env.episode import Episode
from cleaner_env.faults import try_step
from cleaner_env.rewards import GraderError
from cleaner_env.saar import SAARWrapper
from cleaner_env.task import Task
from cleaner_rl.errors import OutageError


@dataclass(frozen=True, slots=True)
class Job:
    """An episode to play.

    Attributes:
        index: its number among the episodes of a rollout.
        seed: seed of its rollback draw and sampling; no two jobs should share it.
        turns: turns sampled before an interruption, which are replayed first.
    """

    index: int
    task: Task
    seed: int
    turns: Sequence[Completion] = ()


@dataclass(frozen=True, slots=True)
class FinishedEpisode:
    """An episode that has ended.

    Attributes:
        episode: the episode; ``faulted`` if the sandbox or a scorer spoilt it.
        seconds: wall time from beginning to end, while other episodes were played as well.
        fault: what spoilt it, or an error that a second attempt mended.
    """

    job: Job
    episode: Episode
    seconds: float
    fault: Exception | None = None


@dataclass(slots=True)
class EpisodeRunner:
    """An environment and the episode being played in it.

    Attributes:
        number: the environment's number.
        info: the last step's info.
        began: ``time.monotonic()`` at the episode's beginning.
        prompt_ids: token ids of the prompt, for players that need them.
        over: whether the episode has ended.
        fault: the last error of the sandbox, a scorer or the server, if there was one.
    """

    number: int
    env: SAARWrapper
    job: Job
    info: dict[str, Any]
    began: float
    prompt_ids: Sequence[int] = ()
    over: bool = False
    fault: Exception | None = None

    @classmethod
    def begin(cls, number: int, env: SAARWrapper, job: Job) -> EpisodeRunner:
        """Begin the job's episode and replay the turns it already has."""
        began = time.monotonic()
        _, info = env.reset(seed=job.seed, options={"task": job.task})
        runner = cls(number, env, job, info, began)
        for turn in job.turns:
            if not runner.over:
                runner.step(turn)
        return runner

    def step(self, turn: Completion) -> None:
        """Take a turn, which may end the episode. A broken sandbox or scorer spoils it."""
        try:
            result, fault = try_step(self.env, turn)
        except GraderError as error:
            raise OutageError(f"answers cannot be compared: {error}") from error
        self.fault = fault or self.fault
        if result is None:
            self.over = True
            return
        _, _, terminated, truncated, self.info = result
        self.over = bool(terminated or truncated)

    def finished(self) -> FinishedEpisode:
        seconds = time.monotonic() - self.began
        return FinishedEpisode(self.job, self.env.episode, seconds, self.fault)
