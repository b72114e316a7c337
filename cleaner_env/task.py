"""Task: a problem and its reference answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Task:
    """One problem, as the agent reads it, and its reference answer.

    Attributes:
        family: what kind of problem it is; statistics are kept per family.
        reward: the name of the scorer that compares answers (see ``cleaner_env.rewards``).
        entry: whatever else that scorer needs.
    """

    prompt: str
    answer: str
    family: str = "custom"
    reward: str = "math"
    entry: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Task | Mapping[str, Any]) -> Task:
        """A task from its mapping form, ``{"prompt": ..., "answer": ...}``."""
        if isinstance(value, Task):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"a task must be a mapping with prompt and answer, not {value!r}")
        known = set(cls.__dataclass_fields__)
        missing, unknown = {"prompt", "answer"} - set(value), set(value) - known
        if missing or unknown:
            raise ValueError(
                f"a task needs 'prompt' and 'answer' and may have {sorted(known)}; "
                f"missing: {sorted(missing)}, unknown: {sorted(unknown)}"
            )
        if not isinstance(value["prompt"], str) or not isinstance(
            value["answer"], str | int | float
        ):
            raise ValueError("a task's prompt must be text, its answer text or a number")
        return cls(**{**value, "answer": str(value["answer"])})
