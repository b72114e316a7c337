"""Subject: the model, tasks and settings that the doctor checks, loaded when first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from cleaner_env.chat import ChatCodec, TemplateError
from cleaner_env.chat.client import ServerError
from cleaner_env.chat.codec import decode
from cleaner_env.formats import TextFormat
from cleaner_env.task import Task
from cleaner_env.tasks.load import first_tasks
from cleaner_rl.config import TrainConfig
from cleaner_rl.doctor.config import DoctorConfig
from cleaner_rl.errors import UserError
from cleaner_rl.models.policy import (
    KNOWS_TOOL,
    Policy,
    context_length,
    load_codec,
    load_model_config,
    load_policy,
    load_tokenizer,
    template_errors,
)
from cleaner_rl.trainer import load_source


@dataclass
class Subject:
    """What the checks share. Reading a property may raise the errors of its loader."""

    doctor: DoctorConfig

    @property
    def config(self) -> TrainConfig:
        return self.doctor.train

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.config.model)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""
        return decode(self.tokenizer, ids)

    @cached_property
    def codec(self) -> ChatCodec:
        return load_codec(self.tokenizer, tool_role=self.config.episode.tool_role)

    @cached_property
    def format(self) -> TextFormat:
        """The format in which the model's calls would be read."""
        config = self.config.episode
        with template_errors():
            return self.codec.make_format(
                config.tool_format, max_calls=config.max_calls, strict=config.strict_calls
            )

    @cached_property
    def model_config(self) -> Any:
        return load_model_config(self.config.model)

    @cached_property
    def policy(self) -> Policy:
        return load_policy(self.config.model, self.config.device, self.config.episode.tool_role)

    @property
    def knows_tool(self) -> bool:
        """Whether the policy can do without a system prompt."""
        return getattr(self.model_config, KNOWS_TOOL, False) is True

    @property
    def context_length(self) -> int:
        """The number of tokens that the model can attend to."""
        return context_length(self.model_config)

    @cached_property
    def tasks(self) -> list[Task]:
        """The first tasks of the training split."""
        source = load_source(self.config.tasks, "train", self.config.seed, self.config.episode)
        return first_tasks(source, self.doctor.num_tasks)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, what to do about it, and details for ``--json``."""

    status: Literal["ok", "warning", "failed"]
    """``warning``: works, but deserves a look; ``failed``: will not work."""
    text: str
    remedy: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


Check = Callable[[Subject], Finding]


def run_checks(
    checks: Mapping[str, Check], subject: Subject, show: Callable[[str], None] = lambda _: None
) -> dict[str, Finding]:
    """Run all checks in order and return their findings. A check that raises has failed.

    If several checks fail for the same reason, such as a model that cannot be loaded, the first one
    gives it and the others refer to that one.
    """
    findings: dict[str, Finding] = {}
    for name, check in checks.items():
        show(f"checking: {name}")
        try:
            finding = check(subject)
        except (UserError, TemplateError, ServerError) as error:
            finding = Finding("failed", str(error))
        except Exception as error:  # any error at all belongs in the report
            text = f"the check itself broke: {type(error).__name__}: {error}"
            finding = Finding("failed", text, "report this, with the output of --json")
        same = [n for n, f in findings.items() if f.status == "failed" and f.text == finding.text]
        if same and finding.status == "failed":
            finding = Finding("failed", f"not checked, for the reason given under '{same[0]}'")
        findings[name] = finding
    return findings
