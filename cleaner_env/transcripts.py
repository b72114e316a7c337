"""Transcript: an episode as text for people."""

from __future__ import annotations

from itertools import zip_longest

from cleaner_env.episode import Episode, RollbackRecord, Turn

_RULE = "-" * 72


def transcript(episode: Episode) -> str:
    """The purified episode, turn by turn, with each rollback noted where it happened."""
    blocks = [beginning(episode)]
    for position, turn in enumerate(episode.turns):
        for record in episode.rollbacks:
            if record.position == position:
                blocks.append(_block("rollback", describe(record)))
        blocks.append(describe_turn(turn))
    return "\n".join([*blocks, ending(episode)])


def beginning(episode: Episode) -> str:
    """The messages before the first turn."""
    return "\n".join([_RULE, *(_block(m["role"], m["content"]) for m in episode.prompt)])


def describe_turn(turn: Turn) -> str:
    """A turn and the tool's answer."""
    text = _block("assistant", turn.text)
    if turn.observation is None:
        return text
    role = {True: "tool", False: "tool (failed)", None: "user"}[turn.ok]
    return f"{text}\n{_block(role, turn.observation)}"


def ending(episode: Episode) -> str:
    """How the episode ended."""
    return f"{_block('result', _result(episode))}\n{_RULE}"


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


def in_one_line(record: RollbackRecord) -> str:
    """The first line that a rollback changed, or the failed call's first, and what came of it."""
    before, after = (
        [] if turn is None else (turn.code or turn.text).strip().splitlines()
        for turn in (record.failed, record.purified)
    )
    pairs = list(zip_longest(before, after, fillvalue=""))
    old, new = next((pair for pair in pairs if pair[0] != pair[1]), ("", "")) if after else pairs[0]
    splice = "" if record.decision is None else f" -> {new.strip()}  ({record.decision} splice)"
    line = f"{record.error_class or 'failure'}: {old.strip()}{splice}: {record.outcome}"
    return "".join(char if char.isprintable() else " " for char in line)


def _result(episode: Episode) -> str:
    if episode.terminated:
        return f"answer {episode.answer!r}, score {episode.score:g}, reward {episode.reward:g}"
    return "truncated: a budget was used up" if episode.truncated else "not finished"


def _block(role: str, text: str) -> str:
    return "\n".join([f"[{role}]", *(f"  {printable(line)}" for line in text.strip().splitlines())])


def printable(line: str) -> str:
    r"""A line in which characters that would steer a terminal, or that cannot be encoded, are
    written as ``\x1b``."""
    letters = (c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in line)
    return "".join(letters)
