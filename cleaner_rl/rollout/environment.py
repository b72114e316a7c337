"""Environment: the sandbox and the wrapped environment that an episode is played in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cleaner_env.env import CodeToolEnv
from cleaner_env.formats import TextFormat
from cleaner_env.interpreter import LIGHT_PRELOAD, Limits, Sandbox, SandboxError
from cleaner_env.rewards import Reward
from cleaner_env.saar import Mode, SAARWrapper
from cleaner_env.task import Task
from cleaner_rl.errors import OutageError
from cleaner_rl.settings import Preload, Schedule, SystemPrompt, ToolFormat

_MAX_FAULTED = 0.05
"""Share of episodes that faults of the sandbox may spoil before the rollout is stopped."""


@dataclass(frozen=True, slots=True)
class EpisodeConfig:
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
        stateful: an episode's programs share their variables.
        preload: what programs find imported already: the standard library (``light``), or numpy
            and sympy as well (``full``).
        code_seconds: wall time of one program.
        workers: programs that run at the same time.
        schedule: when an episode goes on whose program has run, see ``ToolQueue``.
        allow_weak: run programs without isolation where there is none.
        reward: what an episode earns.
    """

    rollback: bool = True
    mode: Mode = "saar"
    gamma: float = 0.5
    max_retries: int = 3
    rollback_probability: float = 1.0
    similarity_on: str = "code"
    max_turns: int = 3
    max_response_tokens: int = 512
    max_turn_tokens: int = 128
    system_prompt: SystemPrompt = "auto"
    tool_format: ToolFormat = "auto"
    max_calls: int = 1
    strict_calls: bool = True
    stateful: bool = False
    preload: Preload = "full"
    code_seconds: float = 4.0
    workers: int = 2
    schedule: Schedule = "reproducible"
    allow_weak: bool = False
    reward: Reward = field(default_factory=Reward)


def open_sandbox(config: EpisodeConfig) -> Sandbox:
    """The sandbox that a rollout of that kind needs.

    Raises:
        OutageError: there is no isolation to be had on this machine.
    """
    try:
        return Sandbox(
            workers=config.workers,
            limits=Limits(wall_s=config.code_seconds, cpu_s=config.code_seconds),
            preload=LIGHT_PRELOAD if config.preload == "light" else None,
            allow_weak=config.allow_weak,
        )
    except SandboxError as error:
        raise OutageError(str(error)) from error


def make_env(
    config: EpisodeConfig,
    sandbox: Sandbox,
    format: TextFormat,
    *,
    knows_tool: bool,
    max_length: int | None = None,
    measure: Callable[[str], int] = len,
) -> SAARWrapper:
    """The environment that episodes of that kind are played in.

    Args:
        config: what an episode is like.
        sandbox: runs the programs.
        format: how turns call the tool.
        knows_tool: the policy needs no system prompt.
        max_length: length of an episode after its prompt; None for no limit.
        measure: the length of a text.
    """
    bare = config.system_prompt == "none" or (config.system_prompt == "auto" and knows_tool)
    env = CodeToolEnv(
        [Task("unused", "unused")],
        reward=config.reward,
        max_turns=config.max_turns,
        max_length=max_length,
        measure=measure,
        system_prompt=None if bare else "default",
        format=format,
        stateful=config.stateful,
        sandbox=sandbox,
    )
    return SAARWrapper(
        env,
        gamma=config.gamma,
        max_retries=config.max_retries,
        rollback_probability=config.rollback_probability,
        similarity_on=config.similarity_on,  # type: ignore[arg-type]
        mode=config.mode if config.rollback else "off",
    )


def check_faults(faults: Sequence[Exception | None], episodes: int) -> None:
    """Stop when so many episodes were spoilt that the sandbox and not a program is to blame.

    Args:
        faults: one for each spoilt episode.
        episodes: how many are to be played.

    Raises:
        OutageError: they are too many.
    """
    if len(faults) > max(1, _MAX_FAULTED * episodes):
        raise OutageError(
            f"the sandbox spoilt {len(faults)} of {episodes} episodes ({faults[0]}); none of "
            "them was scored. Check it with: python -m sandbox doctor"
        )
