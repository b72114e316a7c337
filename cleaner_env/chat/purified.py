"""Purified data: episodes as rows of chat messages for supervised and for preference training.

The rows are those that TRL's SFTTrainer and DPOTrainer take: calls are ``tool_calls`` with their
arguments as an object, so that a model's own chat template writes them, and ``tools`` describes the
interpreter to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cleaner_env.chat.codec import tool_message
from cleaner_env.chat.messages import OUTPUT_BELOW
from cleaner_env.chat.openai import tools_schema
from cleaner_env.episode import Episode, Turn
from cleaner_env.episode_io import json_line
from cleaner_env.formats.protocol import TOOL_NAME

Message = dict[str, Any]


def write_rows(
    directory: Path, episodes: Iterable[Episode], *, all_episodes: bool = False
) -> dict[str, int]:
    """Write ``sft.jsonl`` and ``preference.jsonl``; returns the numbers of episodes and rows.

    The first has the episodes that are worth imitating, the second the corrections in those with
    full marks; with ``all_episodes`` they have everything but spoilt episodes.
    """
    counts = {"episodes": 0, "sft": 0, "preference": 0}
    with (
        (directory / "sft.jsonl").open("w", encoding="utf-8") as trajectories,
        (directory / "preference.jsonl").open("w", encoding="utf-8") as corrections,
    ):
        for episode in episodes:
            counts["episodes"] += 1
            wanted = all_episodes and not episode.faulted
            if wanted or worth_imitating(episode):
                counts["sft"] += 1
                trajectories.write(json_line(sft_row(episode)) + "\n")
            wanted |= episode.correct and not episode.faulted
            for row in preference_rows(episode) if wanted else ():
                counts["preference"] += 1
                corrections.write(json_line(row) + "\n")
    return counts


def worth_imitating(episode: Episode) -> bool:
    """Whether the answer has full marks and no failed call is left in the purified history."""
    return episode.correct and not episode.faulted and not any(t.failed for t in episode.turns)


def sft_row(episode: Episode) -> dict[str, Any]:
    """The purified trajectory: ``messages`` and ``tools``."""
    return {"messages": _messages(episode, len(episode.turns)), "tools": tools_schema()}


def preference_rows(episode: Episode) -> list[dict[str, Any]]:
    """A row for each failed call that a correction replaced: ``prompt``, ``chosen``, ``rejected``.

    The prompt is the history before the call. ``rejected`` is the failed turn, as it was sampled or
    as an earlier splice had made it, and ``chosen`` the purified turn that worked at last. A
    position whose retries were used up has none.
    """
    rows = []
    for record in episode.rollbacks:
        kept = episode.turns[record.position] if record.purified is not None else record.failed
        if kept.failed or kept.ok is None:
            continue
        rows.append(
            {
                "prompt": _messages(episode, record.position),
                "chosen": [_said(kept, record.position)],
                "rejected": [_said(record.failed, record.position)],
                "tools": tools_schema(),
            }
        )
    return rows


def _messages(episode: Episode, turns: int) -> list[Message]:
    """The prompt and the first turns, with what programs printed."""
    messages: list[Message] = [dict(message) for message in episode.prompt]
    for place, turn in enumerate(episode.turns[:turns]):
        said = _said(turn, place)
        messages.append(said)
        if turn.observation is not None:
            messages += _results(turn, said.get("tool_calls", []))
    return messages


def _results(turn: Turn, calls: list[Message]) -> list[Message]:
    """What the agent was shown after a turn. A result has to refer to a call."""
    shown = turn.observation or ""
    if turn.ok is None:
        return [{"role": "user", "content": shown}]
    if not calls:
        return [tool_message(shown, "user")]
    outputs = [OUTPUT_BELOW] * (len(calls) - 1) + [shown]
    return [
        {"role": "tool", "tool_call_id": call["id"], "name": TOOL_NAME, "content": output}
        for call, output in zip(calls, outputs, strict=True)
    ]


def _said(turn: Turn, place: int) -> Message:
    """A turn as the assistant's message. A call that could not be read stays text."""
    codes = turn.parsed.codes
    if not codes:
        return {"role": "assistant", "content": turn.text}
    calls = [
        {
            "id": f"call{place:03}{number:02}",  # nine letters and digits, as Mistral demands
            "type": "function",
            "function": {"name": TOOL_NAME, "arguments": {"code": code}},
        }
        for number, code in enumerate(codes)
    ]
    return {"role": "assistant", "content": turn.reasoning.rstrip(), "tool_calls": calls}
