"""A Gymnasium environment in which a language model solves problems with a Python interpreter.

    env = gym.make("cleaner_env:CleanerCodeTool-v0")   # imports this package, which registers it
    env = SAARWrapper(env)                             # failed calls become their corrections

Importing this package registers the environment and little else; the rest is imported when used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cleaner_env.registration import register_envs

if TYPE_CHECKING:
    from cleaner_env.completion import Completion, Tokens
    from cleaner_env.env import CodeToolEnv
    from cleaner_env.episode import Episode, EpisodeStats, RollbackRecord, Turn
    from cleaner_env.formats import FORMATS, choose_format, make_format
    from cleaner_env.interpreter import Limits, Sandbox, SandboxError
    from cleaner_env.saar import SAARWrapper
    from cleaner_env.similarity import difflib_similarity
    from cleaner_env.splicing import Splice, splice
    from cleaner_env.tasks import ReasoningGymTasks, Task, TaskList, TaskSource
    from cleaner_env.toolcall import HermesFormat, ParsedTurn, ToolCallFormat

__all__ = [
    "FORMATS",
    "CodeToolEnv",
    "Completion",
    "Episode",
    "EpisodeStats",
    "HermesFormat",
    "Limits",
    "ParsedTurn",
    "ReasoningGymTasks",
    "RollbackRecord",
    "SAARWrapper",
    "Sandbox",
    "SandboxError",
    "Splice",
    "Task",
    "TaskList",
    "TaskSource",
    "Tokens",
    "ToolCallFormat",
    "Turn",
    "choose_format",
    "difflib_similarity",
    "make_format",
    "splice",
]

_HOME = {
    "FORMATS": "formats",
    "CodeToolEnv": "env",
    "Completion": "completion",
    "Episode": "episode",
    "EpisodeStats": "episode",
    "HermesFormat": "toolcall",
    "Limits": "interpreter",
    "ParsedTurn": "toolcall",
    "ReasoningGymTasks": "tasks",
    "RollbackRecord": "episode",
    "SAARWrapper": "saar",
    "Sandbox": "interpreter",
    "SandboxError": "interpreter",
    "Splice": "splicing",
    "Task": "tasks",
    "TaskList": "tasks",
    "TaskSource": "tasks",
    "Tokens": "completion",
    "ToolCallFormat": "toolcall",
    "Turn": "episode",
    "choose_format": "formats",
    "difflib_similarity": "similarity",
    "make_format": "formats",
    "splice": "splicing",
}

register_envs()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
