"""Choice: the tool-call format on which a model was trained, as its chat template shows it."""

from __future__ import annotations

import re

_COMMENT = re.compile(r"\{#.*?#\}", re.S)
_MARKS = (
    ("harmony", ("<|channel|>", "<|call|>", "commentary"), ()),
    ("qwen3-coder", ("<tool_call>", "<function=", "<parameter="), ()),
    ("hermes", ("<tool_call>", '"name"', '"arguments"'), ("<arg_key>",)),
    ("llama3", ("<|start_header_id|>", "ipython", '"parameters"'), ("<tool_call>", "<TOOLCALL>")),
)
"""Format, what its templates contain, and what only templates of other formats contain."""


def choose_format(chat_template: str) -> str | None:
    """The name of the format in which a template writes the model's tool calls.

    The template's text is searched for each format's marks; nothing is rendered. None means that
    the template does not know tools, or writes calls in a format that we do not have. ``fenced`` is
    never chosen, because templates do not show it.
    """
    source = _COMMENT.sub("", chat_template).replace("\\", "")
    for name, present, absent in _MARKS:
        if all(mark in source for mark in present) and not any(mark in source for mark in absent):
            return name
    return None
