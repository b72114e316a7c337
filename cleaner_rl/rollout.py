"""Rollout: many episodes played side by side, the policy's turns sampled in batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from cleaner_env.completion import Completion
from cleaner_env.env import CodeToolEnv
from cleaner_env.episode import Episode
from cleaner_env.interpreter import Limits, Sandbox, SandboxError
from cleaner_env.rewards import GraderError, Reward
from cleaner_env.saar import Mode, SAARWrapper
from cleaner_env.tasks import Task
from cleaner_rl.credit import context_ids
from cleaner_rl.errors import OutageError, ToolFormatWarning
from cleaner_rl.policy import Policy
from cleaner_rl.sampler import Sampler

_STEP_ATTEMPTS = 2
"""How often a step is tried whose sandbox broke (each try has the sandbox's own retries)."""
_MAX_FAULTED = 0.05
"""Share of episodes that faults of the sandbox may spoil before the rollout is stopped."""


SystemPrompt = Literal["auto", "default", "none"]
ToolFormat = Literal["auto", "hermes", "qwen3-coder", "llama3", "harmony", "fenced"]


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    """What an episode is like.

    Attributes:
        rollback: whether ``mode`` is on at all.
        mode, gamma, max_retries, rollback_probability, similarity_on: see ``SAARWrapper``.
        max_turns: turns of an episode.
        max_response_tokens: tokens of an episode after the prompt.
        max_turn_tokens: tokens of one turn.
        system_prompt: the first message explains the tool (``default``) or is left out (``none``);
            ``auto`` leaves it out for policies that know the tool from their cold start.
        tool_format: how turns call the tool; ``auto`` goes by the tokenizer's chat template.
        max_calls: calls of one turn.
        strict_calls: False repairs malformed calls.
        code_seconds: wall time of one program.
        workers: programs that run at the same time.
        allow_weak: run programs without isolation where there is none.
        reward: what an episode earns.
    """

    rollback: bool = True
    mode: Mode = "saar"
    gamma: float = 0.5
    max_retries: int = 3
    rollback_probability: float = 1.0
    similarity_on: str = "code"
    max_turns: int = 4
    max_response_tokens: int = 512
    max_turn_tokens: int = 128
    system_prompt: SystemPrompt = "auto"
    tool_format: ToolFormat = "auto"
    max_calls: int = 1
    strict_calls: bool = True
    code_seconds: float = 4.0
    workers: int = 2
    allow_weak: bool = False
    reward: Reward = field(default_factory=Reward)


@dataclass(slots=True)
class _Seat:
    """An environment and the episode that is played in it."""

    env: Any
    prompt_ids: list[int]
    info: dict[str, Any]
    fault: SandboxError | None = None


def open_sandbox(config: RolloutConfig) -> Sandbox:
    """The sandbox that a rollout of that kind needs.

    Raises:
        OutageError: there is no isolation to be had on this machine.
    """
    try:
        return Sandbox(
            workers=config.workers,
            limits=Limits(wall_s=config.code_seconds, cpu_s=config.code_seconds),
            allow_weak=config.allow_weak,
        )
    except SandboxError as error:
        raise OutageError(str(error)) from error


class Rollout:
    """Plays episodes with a policy. Use as a context manager, or call ``close``.

    Args:
        policy: samples the turns.
        sampler: how it samples them.
        config: what an episode is like.
        sandbox: runs the programs and is closed with the rollout; made from ``config`` when None.

    Raises:
        OutageError: there is no isolation to be had on this machine.
        UserError: the tool-call format cannot be had with these settings.
    """

    def __init__(
        self,
        policy: Policy,
        sampler: Sampler,
        config: RolloutConfig,
        sandbox: Sandbox | None = None,
    ) -> None:
        self.policy = policy
        self.sampler = sampler
        self.config = config
        self.format = policy.codec.make_format(
            config.tool_format, max_calls=config.max_calls, strict=config.strict_calls
        )
        warning = policy.codec.format_warning(config.tool_format)
        if warning is not None:
            warnings.warn(warning, ToolFormatWarning, stacklevel=2)
        self.sandbox = open_sandbox(config) if sandbox is None else sandbox
        self.observation_ids = lru_cache(maxsize=16384)(policy.codec.observation_ids)
        self._threads = ThreadPoolExecutor(config.workers, thread_name_prefix="env")
        self._envs: list[SAARWrapper] = []

    def __enter__(self) -> Rollout:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the sandbox and the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self.sandbox.close()

    def play(
        self,
        tasks: Sequence[Task],
        seed: int,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[Episode]:
        """One episode for each task.

        Args:
            tasks: repeat a task to get a group of episodes.
            seed: of the rollback draws and of sampling; the same seed gives the same episodes.
            on_progress: called with the numbers of finished and of all episodes.

        Raises:
            OutageError: faults of the sandbox spoilt too many episodes, or no answer can be
                compared. Fewer spoilt episodes are returned with ``faulted`` set, and have to be
                left out.
        """
        self.sampler.reseed(seed)
        seats = [self._seat(i, task, seed + i) for i, task in enumerate(tasks)]
        active = seats
        while active:
            contexts = [self._context(seat) for seat in active]
            limits = [
                self._limit(seat, context) for seat, context in zip(active, contexts, strict=True)
            ]
            turns = self.sampler.sample(contexts, limits)
            over = list(self._threads.map(self._step, active, turns))
            active = [seat for seat, done in zip(active, over, strict=True) if not done]
            self._check_faults(seats)
            if on_progress is not None:
                on_progress(len(seats) - len(active), len(seats))
        return [seat.env.episode for seat in seats]

    def prompt_ids(self, episode: Episode) -> list[int]:
        """Token ids of an episode's prompt."""
        return self.policy.codec.prompt_ids(episode.prompt)

    def prompt_length(self, task: Task) -> int:
        """Tokens of the prompt that an episode on this task begins with."""
        if not self._envs:
            self._envs.append(self._make_env())
        prompt = self._envs[0].get_wrapper_attr("prompt")(task)
        return len(self.policy.codec.prompt_ids(prompt))

    def response_length(self, episode: Episode) -> int:
        """Tokens of the purified episode after its prompt, last observation excluded."""
        *before, last = episode.turns
        tokens = last.completion.tokens
        length = len(context_ids((), before, self.observation_ids))
        return length + (0 if tokens is None else len(tokens))

    def _seat(self, index: int, task: Task, seed: int) -> _Seat:
        if index == len(self._envs):
            self._envs.append(self._make_env())
        env = self._envs[index]
        _, info = env.reset(seed=seed, options={"task": task})
        return _Seat(env, self.prompt_ids(env.episode), info)

    def _make_env(self) -> SAARWrapper:
        config = self.config
        bare = config.system_prompt == "none" or (
            config.system_prompt == "auto" and self.policy.knows_tool
        )
        env = CodeToolEnv(
            [Task("unused", "unused")],
            reward=config.reward,
            max_turns=config.max_turns,
            max_length=config.max_response_tokens,
            measure=lambda text: len(self.observation_ids(text)),
            system_prompt=None if bare else "default",
            format=self.format,
            sandbox=self.sandbox,
        )
        return SAARWrapper(
            env,
            gamma=config.gamma,
            max_retries=config.max_retries,
            rollback_probability=config.rollback_probability,
            similarity_on=config.similarity_on,  # type: ignore[arg-type]
            mode=config.mode if config.rollback else "off",
        )

    def _context(self, seat: _Seat) -> list[int]:
        return context_ids(seat.prompt_ids, seat.env.episode.turns, self.observation_ids)

    def _limit(self, seat: _Seat, context: list[int]) -> int:
        """Tokens that the next turn may have."""
        room = min(int(seat.info["remaining"]), self.policy.context_length - len(context))
        return max(1, min(room, self.config.max_turn_tokens))

    def _step(self, seat: _Seat, turn: Completion) -> bool:
        """Take a turn; True when it ended the episode."""
        for _ in range(_STEP_ATTEMPTS):
            try:
                _, _, terminated, truncated, seat.info = seat.env.step(turn)
                return bool(terminated or truncated)
            except SandboxError as error:
                seat.fault = error
            except GraderError as error:
                raise OutageError(f"answers cannot be compared: {error}") from error
        seat.env.episode.faulted = True
        return True

    def _check_faults(self, seats: Sequence[_Seat]) -> None:
        """Stop when so many episodes were spoilt that the sandbox and not a program is to blame."""
        faults = [seat.fault for seat in seats if seat.env.episode.faulted]
        if len(faults) > max(1, _MAX_FAULTED * len(seats)):
            raise OutageError(
                f"the sandbox spoilt {len(faults)} of {len(seats)} episodes ({faults[0]}); none of "
                "them was scored. Check it with: python -m sandbox doctor"
            )
