"""Examinee: the model, tasks and settings that the doctor looks at, loaded when they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from cleaner_env.formats import TextFormat
from cleaner_env.task_files import first_tasks, load_tasks
from cleaner_env.tasks import Task
from cleaner_rl.chat import ChatCodec
from cleaner_rl.config import TrainConfig
from cleaner_rl.errors import UserError
from cleaner_rl.models.policy import (
    KNOWS_TOOL,
    Policy,
    load_model_config,
    load_policy,
    load_tokenizer,
    resolve_device,
)


@dataclass
class Examinee:
    """What the checks share. Reading a property may raise what its loader raises.

    Attributes:
        config: as training would have it.
        num_tasks: tasks to look at.
        weights: whether the weights may be loaded.
        grader_seconds: longest time that grading one answer may take.
    """

    config: TrainConfig
    num_tasks: int = 64
    weights: bool = True
    grader_seconds: float = 10.0

    @property
    def device(self) -> torch.device:
        """Where training would run."""
        return resolve_device(self.config.device)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return load_tokenizer(self.config.model)

    @cached_property
    def codec(self) -> ChatCodec:
        """Its chat codec."""
        return ChatCodec(self.tokenizer)

    @cached_property
    def format(self) -> TextFormat:
        """How its calls would be read."""
        config = self.config
        return self.codec.make_format(
            config.tool_format, max_calls=config.max_calls, strict=config.strict_calls
        )

    @cached_property
    def model_config(self) -> Any:
        """The model's configuration."""
        return load_model_config(self.config.model)

    @cached_property
    def policy(self) -> Policy:
        """The model with its weights."""
        return load_policy(self.config.model, self.config.device)

    @property
    def knows_tool(self) -> bool:
        """The policy needs no system prompt."""
        return getattr(self.model_config, KNOWS_TOOL, False) is True

    @property
    def context_length(self) -> int:
        """Tokens that the model can attend to."""
        return int(self.model_config.get_text_config().max_position_embeddings)

    @cached_property
    def tasks(self) -> list[Task]:
        """The first tasks of the training split.

        Raises:
            UserError: there is no such source, or it cannot be read.
        """
        try:
            source = load_tasks(self.config.tasks, "train", self.config.seed)
        except ValueError as error:
            raise UserError(str(error)) from error
        return first_tasks(source, self.num_tasks)
