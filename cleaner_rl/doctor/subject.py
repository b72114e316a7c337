"""Subject: the model, tasks and settings that the doctor looks at, loaded when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch

from cleaner_env.chat import ChatCodec, TemplateError
from cleaner_env.formats import TextFormat
from cleaner_env.task import Task
from cleaner_env.tasks.load import first_tasks, load_tasks
from cleaner_rl.config import TrainConfig
from cleaner_rl.errors import UserError
from cleaner_rl.models.policy import (
    KNOWS_TOOL,
    Policy,
    load_codec,
    load_model_config,
    load_policy,
    load_tokenizer,
    resolve_device,
    template_errors,
)


@dataclass
class Subject:
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
        return load_codec(self.tokenizer)

    @cached_property
    def format(self) -> TextFormat:
        """How its calls would be read."""
        config = self.config.episode
        with template_errors():
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


Status = Literal["ok", "warning", "failed"]
Checked = TypeVar("Checked")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        status: ``ok``; ``warning``: works, but look at it; ``failed``: will not work.
        text: what was found.
        remedy: what to do about it; "" where there is nothing to do.
        details: more of it, for ``--json``.
    """

    status: Status
    text: str
    remedy: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


Check = Callable[[Checked], Finding]


def run_checks(checks: Mapping[str, Check[Checked]], subject: Checked) -> dict[str, Finding]:
    """Every check's finding, in their order. A check that raises has failed; the others run on.

    What several checks fail at for the same reason, such as a model that cannot be loaded, is told
    once; the later ones refer to it.
    """
    findings: dict[str, Finding] = {}
    for name, check in checks.items():
        finding = _run(check, subject)
        same = [n for n, f in findings.items() if f.status == "failed" and f.text == finding.text]
        if same and finding.status == "failed":
            finding = Finding("failed", f"not checked, for the reason given under '{same[0]}'")
        findings[name] = finding
    return findings


def _run(check: Check[Checked], subject: Checked) -> Finding:
    try:
        return check(subject)
    except (UserError, TemplateError) as error:
        return Finding("failed", str(error))
    except Exception as error:  # whatever it is, it belongs into the report
        return Finding(
            "failed",
            f"the check itself broke: {type(error).__name__}: {error}",
            "report this, with the output of --json",
        )
