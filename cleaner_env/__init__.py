"""A Gymnasium environment in which a language model solves problems with a Python interpreter.

    env = gym.make("cleaner_env:CleanerCodeTool-v0")   # imports this package, which registers it
    env = SAARWrapper(env)                             # failed calls become their corrections

``env`` and ``saar`` come first; ``episode``, ``completion`` and ``splicing`` are what they are made
of. A turn's call is read by ``formats`` and run by ``interpreter``. Problems come from ``tasks``,
and ``rewards`` judges answers. ``chat`` connects models: by a chat template, or on a server.
"""

from __future__ import annotations

from gymnasium.envs import registration

from cleaner_env.completion import Completion, Tokens
from cleaner_env.env import CodeToolEnv
from cleaner_env.episode import Episode, EpisodeStats, RollbackRecord, Turn
from cleaner_env.episode_io import (
    EpisodeFileError,
    episode_from_dict,
    episode_to_dict,
    read_episodes,
    write_episodes,
)
from cleaner_env.formats import FORMATS, HermesFormat, choose_format, make_format
from cleaner_env.formats.protocol import ParsedTurn, ToolCallFormat
from cleaner_env.interpreter import Limits, Sandbox, SandboxError
from cleaner_env.replay import Difference
from cleaner_env.rollback_protocol import EpisodeKeeper, RollbackEnv, TurnFormat
from cleaner_env.saar import SAARWrapper
from cleaner_env.similarity import EmbeddingSimilarity, difflib_similarity
from cleaner_env.splicing import Splice, splice
from cleaner_env.task import Task
from cleaner_env.tasks.sources import ReasoningGymTasks, TaskList, TaskSource

__all__ = [
    "FORMATS",
    "CodeToolEnv",
    "Completion",
    "Difference",
    "EmbeddingSimilarity",
    "Episode",
    "EpisodeFileError",
    "EpisodeKeeper",
    "EpisodeStats",
    "HermesFormat",
    "Limits",
    "ParsedTurn",
    "ReasoningGymTasks",
    "RollbackEnv",
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
    "TurnFormat",
    "choose_format",
    "difflib_similarity",
    "episode_from_dict",
    "episode_to_dict",
    "make_format",
    "read_episodes",
    "splice",
    "write_episodes",
]

if "CleanerCodeTool-v0" not in registration.registry:
    registration.register("CleanerCodeTool-v0", entry_point="cleaner_env.env:CodeToolEnv")
