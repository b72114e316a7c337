"""Environment: the sandbox and the wrapped environment in which an episode is played."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cleaner_env import faults as of_steps
from cleaner_env.env import CodeToolEnv
from cleaner_env.formats import TextFormat
from cleaner_env.interpreter import LIGHT_PRELOAD, Limits, Sandbox, SandboxError
from cleaner_env.rewards import FormatTerm, Reward, ToolTerm, load_reward
from cleaner_env.saar import Mode, SAARWrapper
from cleaner_env.task import Task
from cleaner_rl.errors import OutageError, UserError
from cleaner_rl.settings import EpisodeConfig, SaarMode

WRAPPER_MODES: dict[SaarMode, Mode] = {
    "on": "saar",
    "off": "off",
    "shallow-only": "shallow-only",
    "deep-only": "deep-only",
    "mask-failed": "mask-failed",
    "roc": "off",
}
"""The wrapper's mode for each value of ``--saar``."""


def open_sandbox(config: EpisodeConfig) -> Sandbox:
    """Open the sandbox that a rollout with these settings needs."""
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
    """The environment for episodes with these settings. A policy that ``knows_tool`` can do without
    a system prompt. ``max_length`` limits the response, in units of ``measure``."""
    bare = config.system_prompt == "none" or (config.system_prompt == "auto" and knows_tool)
    env = CodeToolEnv(
        [Task("unused", "unused")],
        reward=reward_of(config),
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
        similarity_on=config.similarity_on,
        mode=WRAPPER_MODES[config.saar],
    )


def reward_of(config: EpisodeConfig) -> Reward:
    """An episode's reward, except for overlong shaping: that counts tokens, as the trainer does."""
    terms = (FormatTerm(penalty=config.format_penalty), ToolTerm(failure=config.failure_penalty))
    built_in = Reward(wrong=config.wrong_reward, partial=config.partial_reward, terms=terms)
    if not config.reward:
        return built_in
    try:
        reward = load_reward(config.reward, built_in)
    except ValueError as error:
        raise UserError(f"--reward: {error}") from error
    plain = Reward(wrong=reward.wrong, terms=(FormatTerm(), ToolTerm()))
    if reward.scorer is None and built_in != plain:
        raise UserError(
            f"--reward {config.reward} is a whole Reward: leave out --partial-reward, "
            f"--format-penalty and --failure-penalty, and say --wrong-reward {reward.wrong:g}"
        )
    return reward


def check_faults(faults: Sequence[Exception | None], episodes: int) -> None:
    """Stop the rollout when so many episodes were spoilt that the sandbox or a scorer is broken."""
    try:
        of_steps.check_faults(faults, episodes)
    except SandboxError as error:
        raise OutageError(str(error)) from error
