"""TrlTasks: problems as a data set for TRL, and the problem behind a prompt that TRL hands back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from cleaner_env.env import CodeToolEnv
from cleaner_env.interpreter import Sandbox
from cleaner_env.task import Task
from cleaner_env.tasks.draw import Tasks


class TrlTasks:
    """Problems, in the ways in which TRL wants them.

    Args:
        tasks: as ``CodeToolEnv`` takes them.
        options: arguments of ``CodeToolEnv``, which are checked here.
        of_trl: arguments that are refused, each with what takes its place.
    """

    def __init__(
        self, tasks: Tasks | None, options: Mapping[str, Any], of_trl: Mapping[str, str]
    ) -> None:
        for name in of_trl.keys() & options.keys():
            raise ValueError(f"{name}= has no effect here; use {of_trl[name]}")
        self._source = CodeToolEnv(tasks, **options)
        self._tasks: dict[str, Task] = {}

    def dataset(self, count: int, first: int = 0) -> Dataset:
        """``count`` problems, from number ``first`` of the source on: for training or evaluation.

        Raises:
            ValueError: two problems with the same text differ in their answers.
        """
        rows = []
        for index in range(first, first + count):
            self._source.reset(options={"index": index})
            task = self._source.episode.task
            prompt = [{"role": "user", "content": task.prompt}]
            known = self._tasks.setdefault(json.dumps(prompt, sort_keys=True), task)
            if known.answer != task.answer:
                raise ValueError(
                    f"two problems ask {task.prompt!r}, with the answers {known.answer!r} and "
                    f"{task.answer!r}; leave one of them out"
                )
            rows.append({"prompt": prompt})
        return Dataset.from_list(rows)

    def task(self, prompt: Any) -> Task:
        """The problem behind a prompt."""
        try:
            return self._tasks[json.dumps(prompt, sort_keys=True)]
        except KeyError:
            raise ValueError(
                f"no problem is known for the prompt {prompt!r}; give GRPOTrainer data sets that "
                "the dataset() of this object made"
            ) from None


def with_sandbox(options: Mapping[str, Any], workers: int = 1) -> dict[str, Any]:
    """Arguments of ``CodeToolEnv`` with a sandbox that all environments share: the given one, or a
    new one with the given limits."""
    of_sandbox = {name: options[name] for name in ("limits", "allow_weak") if name in options}
    sandbox = options.get("sandbox") or Sandbox(workers, **of_sandbox)
    rest = {name: value for name, value in options.items() if name not in of_sandbox}
    return {**rest, "sandbox": sandbox}
