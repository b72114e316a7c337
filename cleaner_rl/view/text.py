"""Text: episodes as transcripts in the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from cleaner_env.transcripts import printable, transcript
from cleaner_rl.view.source import Logged

_STYLES = {
    "system": "dim",
    "user": "cyan",
    "assistant": "bold",
    "tool": "green",
    "tool (failed)": "red",
    "rollback": "yellow",
    "result": "magenta",
}
"""The style of a block, by its head."""
_HEAD = re.compile(r"^\[(.+)\]$")


def printer() -> Callable[[str], None]:
    """Prints a transcript: in colours on a terminal, if rich is installed."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ModuleNotFoundError:
        return print
    console = Console(highlight=False, soft_wrap=True)

    def show(transcript: str) -> None:
        style = ""
        for line in transcript.split("\n"):
            head = _HEAD.match(line)
            if head is not None or not line.startswith(" "):
                style = _STYLES.get(head[1], "") if head else ""
            console.print(Text(line, style))

    return show


def describe(logged: Logged) -> str:
    """An episode as text, below a line that says where it belongs."""
    facts = [f"reward {logged.episode.reward:g}"]
    training: Mapping[str, Any] = logged.training or {}
    if training:
        advantage = training["advantages"][training["member"]]
        shown = "not trained" if advantage is None else f"advantage {advantage:+.3f}"
        where = f"step {logged.step}, group {training['group']}, member {training['member']}"
        facts = [where, f"reward {training['rewards'][training['member']]:g}", shown]
    elif logged.mode:
        facts.insert(0, printable(f"rollback {logged.mode}"))
    return f"\n{', '.join(facts)}\n{transcript(logged.episode)}"
