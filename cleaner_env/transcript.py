"""Transcript: an episode as text for people."""

from __future__ import annotations

from cleaner_env.episode import Episode, RollbackRecord

_RULE = "-" * 72


def transcript(episode: Episode) -> str:
    """The purified episode, turn by turn, each rollback noted where it happened."""
    lines = [_RULE]
    for message in episode.prompt:
        lines += _block(message["role"], message["content"])
    for position, turn in enumerate(episode.turns):
        for record in episode.rollbacks:
            if record.position == position:
                lines += _block("rollback", describe(record))
        lines += _block("assistant", turn.text)
        if turn.observation is not None:
            lines += _block("tool" if turn.ok else "tool (failed)", turn.observation)
    lines += _block("result", _result(episode))
    return "\n".join([*lines, _RULE])


def describe(record: RollbackRecord) -> str:
    """One rollback in a sentence or two."""
    what = record.failed.error_class or "failure"
    head = f"{what} in the call:\n{record.failed.code or record.failed.text}\n"
    if record.decision is None:
        why = {"gave_up": "the answer had no call", "cut_off": "the length budget was used up"}
        return f"{head}lookahead {record.retry}: {why[record.outcome]}; nothing replaced"
    return (
        f"{head}lookahead {record.retry}: {record.decision} splice, "
        f"similarity {record.similarity:.2f}, {record.outcome}"
    )


def _result(episode: Episode) -> str:
    if episode.terminated:
        return f"answer {episode.answer!r}, score {episode.score:g}, reward {episode.reward:g}"
    return "truncated: a budget was used up" if episode.truncated else "not finished"


def _block(role: str, text: str) -> list[str]:
    return [f"[{role}]", *(f"  {line}" for line in text.strip().splitlines())]
