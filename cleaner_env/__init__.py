"""A Gymnasium environment in which a language model solves problems with a Python interpreter.

    env = gym.make("cleaner_env:CleanerCodeTool-v0")   # imports this package, which registers it
    env = SAARWrapper(env)                             # failed calls become their corrections

``env`` and ``saar`` come first; ``episode``, ``completion`` and ``splicing`` are what they are made
of. A turn's call is read by ``formats`` and run by ``interpreter``. Problems come from ``tasks``,
and ``rewards`` judges answers. ``chat`` connects models: by a chat template, or on a server.

What other code may rely on is in ``__all__`` here, in ``chat``, ``formats`` and ``rewards``, and
the client of servers in ``chat.client``. For an agent: ``info["messages"]`` (``Episode.messages``)
is what it must be shown next. For a trainer: ``context_ids`` builds the token ids of that context,
and ``purified_sample``, ``turn_sample`` and ``call_sample`` give what it trains. For people:
``transcript`` writes an episode down.
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
from cleaner_env.tasks.load import first_tasks, load_tasks
from cleaner_env.tasks.sources import ReasoningGymTasks, TaskList, TaskSource
from cleaner_env.tasks.verl import verl_rows
from cleaner_env.text_space import TextSpace
from cleaner_env.token_episode import TokenEpisode, TrainingRow, token_env
from cleaner_env.token_samples import (
    TokenSample,
    call_sample,
    context_ids,
    purified_sample,
    turn_sample,
)
from cleaner_env.transcripts import transcript

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
    "TextSpace",
    "TokenEpisode",
    "TokenSample",
    "Tokens",
    "ToolCallFormat",
    "TrainingRow",
    "Turn",
    "TurnFormat",
    "call_sample",
    "choose_format",
    "context_ids",
    "difflib_similarity",
    "episode_from_dict",
    "episode_to_dict",
    "first_tasks",
    "load_tasks",
    "make_format",
    "purified_sample",
    "read_episodes",
    "splice",
    "token_env",
    "transcript",
    "turn_sample",
    "verl_rows",
    "write_episodes",
]

if "CleanerCodeTool-v0" not in registration.registry:
    registration.register("CleanerCodeTool-v0", entry_point="cleaner_env.env:CodeToolEnv")
