"""Page data: everything that the page shows, as plain JSON; docs/viewer.md has its format."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from cleaner_env.episode import Episode, RollbackRecord, Turn
from cleaner_rl.errors import UserError
from cleaner_rl.grpo.credit import splices
from cleaner_rl.runs.metrics import LABELS
from cleaner_rl.view.source import Logged, Part, Source
from cleaner_rl.view.tokens import RULES, advantages_by_rule, gaps, number, spread, token_layer

_PROMPT = 160
"""Characters of a question that the list of groups shows."""
_CHUNK = 32
"""A chunk has about that many episodes, in whole groups."""


def page_data(source: Source, step: int | None = None) -> tuple[dict[str, Any], list[bytes]]:
    """The page data of a source without its chunks, and these, as compressed JSON.

    ``step`` leaves out the episodes of other steps.
    """
    config = source.parts[0].config
    top: dict[str, Any] = {
        "title": source.title,
        "kind": source.kind,
        "gamma": config.get("gamma"),
        "similarity": config.get("similarity_on"),
        "max_retries": config.get("max_retries"),
        "rule": None if source.kind == "comparison" else config.get("credit"),
        "rules": list(RULES),
        "labels": {name: label for name, (label, _) in LABELS.items()},
        "curves": [_curves(part) for part in source.parts if part.metrics or part.held_out],
        "groups": [],
        "episodes": [],
        "texts": {},
        "chunks": None,
    }
    chunks: list[bytes] = []
    for part in source.parts:
        for chunk in _chunked(part.episodes(step)):
            try:
                details = _add(top, part, chunk, len(chunks))
            except (KeyError, IndexError, ValueError, TypeError) as error:
                raise UserError(
                    f"what step {chunk[0][0].step} of {source.title} recorded with its episodes is "
                    f"damaged, or of another version of cleaner-rl ({error!r}); remove its file, "
                    "or use that version"
                ) from error
            chunks.append(gzip.compress(as_json(details).encode(), mtime=0))
    return top, chunks


def as_json(data: Any) -> str:
    """Compact JSON in ASCII: lone surrogates are escaped like other characters that are not."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def _curves(part: Part) -> dict[str, Any]:
    names = {name: None for row in part.metrics for name in row if name != "step"}
    return {
        "arm": part.arm,
        "steps": [row["step"] for row in part.metrics],
        "series": {name: [number(row.get(name)) for row in part.metrics] for name in names},
        "held_out": [{name: number(v) for name, v in row.items()} for row in part.held_out],
    }


def _chunked(logged: Iterable[Logged]) -> Iterator[list[list[Logged]]]:
    """The groups, as many at a time as make a chunk."""
    chunk: list[list[Logged]] = []
    for _, members in groupby(logged, key=lambda one: one.group):
        chunk.append(list(members))
        if sum(map(len, chunk)) >= _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _add(
    top: dict[str, Any], part: Part, groups: Sequence[Sequence[Logged]], place: int
) -> list[dict[str, Any]]:
    """Add the groups and episodes of a chunk to the page data; returns the chunk."""
    chunk: list[dict[str, Any]] = []
    for members in groups:
        group = _group(part, members)
        for index, one in enumerate(members):
            layer = None
            if one.training is not None:
                top["texts"].update(one.training["texts"])
                layer = token_layer(one.episode, one.training, group["advantages"])
            group["episodes"].append(len(top["episodes"]))
            where = {"group": len(top["groups"]), "chunk": place, "at": len(chunk)}
            top["episodes"].append(_episode(one, index, group, layer) | where)
            chunk.append(_details(one.episode, layer))
        top["groups"].append(group)
    return chunk


def _group(part: Part, members: Sequence[Logged]) -> dict[str, Any]:
    first, training = members[0], members[0].training
    task = first.episode.task
    branches = sum(len(splices(one.episode)) for one in members)
    rewards = [one.episode.reward for one in members]
    group: dict[str, Any] = {
        "step": first.step,
        "arm": part.arm or (f"rollback {first.mode}" if first.mode else ""),
        "rule": part.config.get("credit"),
        "gamma": part.config.get("gamma"),
        "prompt": task.prompt[:_PROMPT],
        "family": task.family,
        "answer": task.answer,
        "branches": branches,
        "advantages": None,
        "has_signal": None,
        "learned": None,
        "episodes": [],
    }
    if training is not None:
        rewards, rule = training["rewards"], training["rule"]
        by_rule = advantages_by_rule(training, branches)
        trained = [sample for one in members for sample in (one.training or training)["samples"]]
        group |= {
            "rule": rule,
            "advantages": by_rule,
            "has_signal": any(by_rule[rule]["members"]) or by_rule[rule]["branches"] != 0,
            "learned": any(sample["logprobs"] is not None for sample in trained),
        }
    return group | {"rewards": list(map(number, rewards)), "spread": number(spread(rewards))}


def _episode(
    one: Logged, place: int, group: Mapping[str, Any], layer: Mapping[str, Any] | None
) -> dict[str, Any]:
    episode, training, stats = one.episode, one.training, one.episode.stats
    member = place if training is None else training["member"]
    failed = {turn.error_class: None for turn in episode.raw_turns if turn.failed}
    return {
        "member": member,
        "reward": group["rewards"][member],
        "score": number(episode.score),
        "correct": episode.correct,
        "advantage": None if training is None else number(training["advantages"][member]),
        **{name: getattr(stats, name) for name in ("turns", "calls", "failures")},
        "tokens": stats.tokens_sampled,
        "discarded": stats.tokens_discarded,
        "outcomes": [record.outcome for record in episode.rollbacks],
        "shallow": stats.shallow,
        "deep": stats.deep,
        "errors": list(failed),
        "truncated": episode.truncated,
        **gaps(layer),
    }


def _details(episode: Episode, layer: Mapping[str, Any] | None) -> dict[str, Any]:
    ending = {name: getattr(episode, name) for name in ("terminated", "truncated")}
    return {
        "prompt": episode.prompt,
        "turns": [_turn(turn) for turn in episode.turns],
        "raw_turns": [_turn(turn) for turn in episode.raw_turns],
        "rollbacks": [_rollback(record) for record in episode.rollbacks],
        "answer": episode.answer,
        "final": {**ending, "score": number(episode.score)},
        "tokens": layer,
    }


def _turn(turn: Turn) -> dict[str, Any]:
    same = ("text", "code", "observation", "ok", "note", "masked", "retry")
    return {
        **{name: getattr(turn, name) for name in same},
        "reasoning": str(turn.reasoning),
        "call": turn.parsed.call,
        "error": turn.error_class,
        "tokens": turn.token_count,
    }


def _rollback(record: RollbackRecord) -> dict[str, Any]:
    same = ("position", "retry", "outcome", "decision")
    return {
        **{name: getattr(record, name) for name in same},
        "similarity": number(record.similarity),
        "failed": _turn(record.failed),
        "answer": _turn(record.answer),
        "spliced": None if record.purified is None else _turn(record.purified),
        "discarded": record.tokens_discarded,
    }
