"""Tool-call formats by name, and the choice of one from a tokenizer's chat template."""

from __future__ import annotations

from cleaner_env.formats.base import TextFormat
from cleaner_env.formats.choice import choose_format
from cleaner_env.formats.fenced import FencedFormat
from cleaner_env.formats.harmony import HarmonyFormat
from cleaner_env.formats.hermes import HermesFormat
from cleaner_env.formats.llama3 import Llama3Format
from cleaner_env.formats.protocol import TOOL_SCHEMA, ToolCallFormat, system_prompt
from cleaner_env.formats.qwen3_coder import Qwen3CoderFormat

__all__ = [
    "FORMATS",
    "TOOL_SCHEMA",
    "FencedFormat",
    "HarmonyFormat",
    "HermesFormat",
    "Llama3Format",
    "Qwen3CoderFormat",
    "TextFormat",
    "ToolCallFormat",
    "choose_format",
    "make_format",
    "resolve_format",
    "system_prompt",
]

FORMATS: dict[str, type[TextFormat]] = {
    kind.name: kind
    for kind in (HermesFormat, Qwen3CoderFormat, Llama3Format, HarmonyFormat, FencedFormat)
}
"""Every format by its name."""


def make_format(
    name: str, *, max_calls: int = 1, strict: bool = True, opened_thinking: bool = False
) -> TextFormat:
    """Create the format with a name; for the arguments see ``TextFormat``."""
    if name not in FORMATS:
        raise ValueError(f"unknown tool-call format {name!r}; use one of: {', '.join(FORMATS)}")
    return FORMATS[name](max_calls=max_calls, strict=strict, opened_thinking=opened_thinking)


def resolve_format(format: str | ToolCallFormat, *, max_calls: int, strict: bool) -> ToolCallFormat:
    """The format with a name, or the format itself."""
    if isinstance(format, str):
        return make_format(format, max_calls=max_calls, strict=strict)
    if max_calls != 1 or not strict:
        raise ValueError(
            "max_calls and strict apply only to a format that is chosen by name; give them to "
            f"{type(format).__name__}(...) instead"
        )
    return format
