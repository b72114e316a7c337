"""Rewards of one's own, by their place in a module: ``my_rewards:judge``."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

from cleaner_env.rewards.reward import Reward
from cleaner_env.rewards.scorers import Scorer
from cleaner_env.task import Task
from sandbox.judge import Runner


def load_reward(name: str, base: Reward | None = None) -> Reward:
    """The reward that ``MODULE:OBJECT`` names; the module may lie in the current directory.

    The object is a ``Reward``, or judges the answers to every task: a ``Scorer``, or a function of
    an answer and its task that returns a score from 0 to 1. The rest of the reward is then that of
    ``base``.

    Raises:
        ValueError: there is no such object, or it is none of these.
    """
    found = _find(name)
    if isinstance(found, Reward):
        return found
    if not isinstance(found, Scorer):
        found = Scorer(_of_two(found, name))
    return replace(base or Reward(), scorer=found)


def _find(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(
            f"{name!r} names no reward: write MODULE:OBJECT, such as my_rewards:judge for the "
            "function judge in my_rewards.py"
        )
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:  # as for the cleaner-rl command
        sys.path.insert(0, here)
    try:
        imported = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"{module} needs a package that is missing: {error.name}") from error
        raise ValueError(
            f"there is no module {error.name!r} in {here} or among the installed packages"
        ) from error
    except Exception as error:
        raise ValueError(f"{module} cannot be imported: {error!r}") from error
    if not hasattr(imported, attribute):
        raise ValueError(f"the module {module} ({imported.__file__}) has no object {attribute!r}")
    return getattr(imported, attribute)


def _of_two(function: Any, name: str) -> Callable[[str, Task, Runner | None], float]:
    """A scorer's ``score`` from a function of an answer and its task."""
    wanted = "a Reward, a Scorer, or a function of two arguments, an answer and its task"
    if not callable(function) or isinstance(function, type):
        raise ValueError(f"{name} is {function!r:.100}; it must be {wanted}")
    try:
        inspect.signature(function).bind("", None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be {wanted}: {error}") from error

    def score(answer: str, task: Task, runner: Runner | None) -> float:
        result: float = function(answer, task)
        return result

    score.__qualname__ = name
    return score
