"""Thoughts: the part of a turn that is neither searched for calls nor for answers."""

from __future__ import annotations

import re
from collections.abc import Iterable

THOUGHT = re.compile(r"<think>|\[THINK\]|<\|START_THINKING\|>|<\|channel>thought")
THOUGHT_END = re.compile(r"</think>|\[/THINK\]|<\|END_THINKING\|>|<channel\|>")
"""Marks of thoughts: most models, Mistral's, Cohere's, Gemma 4."""


def thought_end(text: str, opened: bool, programs: Iterable[tuple[int, int]]) -> int | None:
    """Where the thought ends with which a turn begins: 0 without one, None if it is never closed.

    The opening mark may be missing, because some templates end the prompt with it; ``opened`` says
    that they do. If neither is so, a closing mark within a program, ``text[start:end]``, is text.
    """
    opened = opened or THOUGHT.match(text, len(text) - len(text.lstrip())) is not None
    closing = THOUGHT_END.search(text)
    for start, end in () if opened or closing is None else programs:
        if closing and start < closing.start() < end:
            closing = THOUGHT_END.search(text, end)
    if closing is None:
        return None if opened else 0
    return closing.end()


def ends_in_thought(text: str) -> bool:
    """Whether the last mark of a thought in a text opens one."""
    opened, closed = list(THOUGHT.finditer(text)), list(THOUGHT_END.finditer(text))
    return bool(opened) and (not closed or closed[-1].start() < opened[-1].start())
