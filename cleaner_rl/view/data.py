"""Page data: everything that the page shows, as plain JSON.

The whole, in the page or at ``data.json`` of the local server::

    {
      "title": "tiny-20261130",
      "kind": "run" | "episodes" | "evaluation" | "comparison",
      "gamma": 0.5 | null, "similarity": "code" | "call" | null, "max_retries": 3 | null,
      "rule": "purified" | null,            credit rule of the run; null where nothing was trained
      "rules": ["purified", ...],           rules that the credit switch offers
      "labels": {"reward": "reward", ...},  readable names of metrics
      "curves": [{                          one for each run, several in a comparison
        "arm": "" | "branched, seed-0",
        "steps": [1, 2, ...],
        "series": {"reward": [0.1, ...], ...},            as long as steps; null where missing
        "held_out": [{"step": 0, "accuracy": 0.4, "failed_calls": 0.9, ...}, ...]
      }],
      "groups": [{
        "step": 3 | null, "arm": "",        in evaluations, arm is "rollback off" or "rollback on"
        "prompt": "first 160 characters of the question", "family": "gcd", "answer": "12" | null,
        "rewards": [1.0, 0.0, ...],         of all members, as trained (shaping included)
        "advantages": {"purified": {"members": [0.7, null, ...], "branches": 0.0}, ...} | null,
                                            by rule; null: not known; a member's null: not trained
        "branches": 4,                      calls that splices removed, in all logged members
        "has_signal": true | null,          the group teaches something under the rule of the run
        "learned": true | null,             the update computed values of some of its tokens
        "spread": 0.48,                     standard deviation of the rewards
        "episodes": [0, 1, ...]             numbers of its logged episodes
      }],
      "episodes": [{
        "group": 0, "member": 2,            its group's number; its place in "rewards"
        "reward": 1.0, "score": 1.0, "correct": true, "advantage": 0.7 | null,
        "turns": 2, "calls": 2, "failures": 1, "tokens": 181, "discarded": 40,
        "outcomes": ["recovered", ...],     of its rollbacks: recovered, retry, exhausted, gave_up,
                                            cut_off
        "shallow": 1, "deep": 0,
        "errors": ["NameError", ...],       classes of all failed calls, each once
        "truncated": false,
        "gap": 0.0001 | null,               largest |recomputed - sampled| of sampled tokens
        "grafted_gap": 3.2 | null,          the same of grafted tokens
        "chunk": 0, "at": 5                 where its details are
      }],
      "texts": {"17": " print", ...},       text of a token id; a lone surrogate U+DC80-U+DCFF is a
                                            byte of a character that several tokens make up
      "chunks": ["base64 of gzip of JSON", ...] | null     null: fetch chunks/N from the server,
                                            which is the JSON itself
    }

A chunk is a list of episode details::

    {
      "prompt": [{"role": "system", "content": "..."}, ...],
      "turns": [TURN, ...],                 the purified history
      "raw_turns": [TURN, ...],             as sampled
      "rollbacks": [{
        "position": 0, "retry": 1, "outcome": "recovered",
        "decision": "shallow" | "deep" | null, "similarity": 0.9 | null,
        "failed": TURN, "answer": TURN, "spliced": TURN | null, "discarded": 40
      }, ...],
      "answer": "12" | null, "final": {"terminated": true, "truncated": false, "score": 1.0},
      "tokens": TOKENS | null               null: the file has no token texts
    }

    TURN = {"text": "...", "reasoning": "...", "code": "..." | null, "call": "..." | null,
            "observation": "..." | null, "ok": true | false | null, "error": "NameError" | "",
            "note": "", "masked": false, "retry": 0, "tokens": 57}

    TOKENS = {
      "lanes": [{                           the first is the purified trajectory
        "kind": "purified" | "removed call" | "lookahead" | "extra",
        "rollback": 0 | null,               the rollback that it belongs to
        "ids": [17, 4, ...],
        "origin": "pppssgge...",            a letter for each token: prompt, sampled, grafted,
                                            environment
        "turn": [[57, -1], [40, 0], ...],   run lengths of [count, turn's number in the lane];
                                            -1: the prompt. In lanes of a rollback the failed turn
                                            is the last but one ("lookahead") or the last
        "sampled": [null, -0.1, ...],       log-probability when it was sampled
        "recomputed": [null, ...] | null,   before the update, in this context; null: not computed
        "entropy": [null, ...] | null
      }],
      "rules": {"purified": [{              in the order of the training samples
        "lane": 0,
        "credit": [[57, null], [40, 0.7]]   run lengths of [count, advantage]; null: not in the loss
      }, ...], ...}                         a rule is missing for members that were not trained
    }
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import Any

from cleaner_env.episode import Episode, RollbackRecord, Turn
from cleaner_rl.grpo.credit import splices
from cleaner_rl.runs.metrics import LABELS
from cleaner_rl.view.source import Logged, Part, Source, read_logged
from cleaner_rl.view.tokens import RULES, advantages_by_rule, gaps, rounded, spread, token_layer

_PROMPT = 160
_CHUNK = 32
"""A chunk of a file without steps has about that many episodes."""


@dataclass(slots=True)
class PageData:
    """The page data of a source; ``chunks`` are made on demand.

    Attributes:
        top: everything but the chunks.
        places: for each chunk its file, the step of it, and the first and last episode in it.
    """

    top: dict[str, Any]
    places: list[tuple[Path, int | None, int, int]] = field(default_factory=list)

    @classmethod
    def of(cls, source: Source) -> tuple[PageData, list[list[dict[str, Any]]]]:
        """The page data and all chunks."""
        data = cls(_top(source))
        chunks = []
        for part in source.parts:
            for step, path in part.files:
                for begin, members in _chunked(read_logged(path, step)):
                    chunks.append(data._add(part, members))
                    data.places.append((path, step, begin, begin + len(members)))
        return data, chunks

    def _add(self, part: Part, logged: Sequence[Logged]) -> list[dict[str, Any]]:
        """Add the groups and episodes of a chunk; returns the chunk."""
        chunk: list[dict[str, Any]] = []
        for _, same in groupby(logged, key=lambda one: one.group):
            members = list(same)
            group = _group(part, members)
            self.top["groups"].append(group)
            for place, one in enumerate(members):
                training = one.training
                layer = None
                if training is not None:
                    self.top["texts"].update(training["texts"])
                    layer = token_layer(one.episode, training, group["advantages"])
                group["episodes"].append(len(self.top["episodes"]))
                row = _episode(one, place, group, layer)
                row |= {"group": len(self.top["groups"]) - 1, "at": len(chunk)}
                self.top["episodes"].append(row | {"chunk": len(self.places)})
                chunk.append(_details(one.episode, layer))
        return chunk


def _top(source: Source) -> dict[str, Any]:
    config = source.parts[0].config if source.parts else {}
    return {
        "title": source.title,
        "kind": source.kind,
        "gamma": config.get("gamma"),
        "similarity": config.get("similarity_on"),
        "max_retries": config.get("max_retries"),
        "rule": config.get("credit") if source.kind != "comparison" else None,
        "rules": list(RULES),
        "labels": {name: label for name, (label, _) in LABELS.items()},
        "curves": [_curves(part) for part in source.parts if part.metrics or part.held_out],
        "groups": [],
        "episodes": [],
        "texts": {},
        "chunks": None,
    }


def _curves(part: Part) -> dict[str, Any]:
    names = {name: None for row in part.metrics for name in row if name != "step"}
    return {
        "arm": part.arm,
        "steps": [row["step"] for row in part.metrics],
        "series": {name: [_number(row.get(name)) for row in part.metrics] for name in names},
        "held_out": [
            {name: _number(value) for name, value in row.items()} for row in part.held_out
        ],
    }


def _number(value: Any) -> Any:
    """A float with five significant digits, or None if it is not finite, which JSON lacks."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if isfinite(value) else None


def _chunked(logged: Iterable[Logged]) -> Iterator[tuple[int, list[Logged]]]:
    """Lists of whole groups, each with the number of its first episode in the file."""
    begin, chunk = 0, list[Logged]()
    for _, same in groupby(logged, key=lambda one: one.group):
        chunk += same
        if len(chunk) >= _CHUNK:
            yield begin, chunk
            begin, chunk = begin + len(chunk), []
    if chunk:
        yield begin, chunk


def _group(part: Part, members: Sequence[Logged]) -> dict[str, Any]:
    first, training = members[0], members[0].training
    episodes = [one.episode for one in members]
    rewards = [e.reward for e in episodes] if training is None else training["rewards"]
    branches = sum(len(splices(episode)) for episode in episodes)
    task = first.episode.task
    advantages, learned, signal = None, None, None
    if training is not None:
        advantages = advantages_by_rule(training, branches)
        own = advantages[training["rule"]]
        signal = any(own["members"]) or own["branches"] != 0
        samples = [sample for one in members for sample in (one.training or {})["samples"]]
        learned = any(sample["logprobs"] is not None for sample in samples)
        for shared in advantages.values():
            shared["members"] = [_number(value) for value in shared["members"]]
            shared["branches"] = _number(shared["branches"])
    return {
        "step": first.step,
        "arm": part.arm or (f"rollback {first.mode}" if first.mode else ""),
        "prompt": task.prompt[:_PROMPT],
        "family": task.family,
        "answer": task.answer,
        "rewards": rounded(rewards),
        "advantages": advantages,
        "branches": branches,
        "has_signal": signal,
        "learned": learned,
        "spread": _number(spread(rewards)),
        "episodes": [],
    }


def _episode(
    one: Logged, place: int, group: Mapping[str, Any], layer: Mapping[str, Any] | None
) -> dict[str, Any]:
    episode, training = one.episode, one.training
    stats = episode.stats
    member = place if training is None else training["member"]
    worst = {"s": None, "g": None} if training is None else gaps(training, layer)
    failed = {turn.error_class: None for turn in episode.raw_turns if turn.failed}
    return {
        "member": member,
        "reward": group["rewards"][member],
        "score": _number(episode.score),
        "correct": episode.correct,
        "advantage": None if training is None else _number(training["advantages"][member]),
        "turns": stats.turns,
        "calls": stats.calls,
        "failures": stats.failures,
        "tokens": stats.tokens_sampled,
        "discarded": stats.tokens_discarded,
        "outcomes": [record.outcome for record in episode.rollbacks],
        "shallow": stats.shallow,
        "deep": stats.deep,
        "errors": list(failed),
        "truncated": episode.truncated,
        "gap": worst["s"],
        "grafted_gap": worst["g"],
    }


def _details(episode: Episode, layer: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "prompt": episode.prompt,
        "turns": [_turn(turn) for turn in episode.turns],
        "raw_turns": [_turn(turn) for turn in episode.raw_turns],
        "rollbacks": [_rollback(record) for record in episode.rollbacks],
        "answer": episode.answer,
        "final": {
            "terminated": episode.terminated,
            "truncated": episode.truncated,
            "score": _number(episode.score),
        },
        "tokens": layer,
    }


def _turn(turn: Turn) -> dict[str, Any]:
    return {
        "text": turn.text,
        "reasoning": str(turn.reasoning),
        "code": turn.code,
        "call": turn.parsed.call,
        "observation": turn.observation,
        "ok": turn.ok,
        "error": turn.error_class,
        "note": turn.note,
        "masked": turn.masked,
        "retry": turn.retry,
        "tokens": turn.token_count,
    }


def _rollback(record: RollbackRecord) -> dict[str, Any]:
    return {
        "position": record.position,
        "retry": record.retry,
        "outcome": record.outcome,
        "decision": record.decision,
        "similarity": None if record.similarity is None else round(record.similarity, 3),
        "failed": _turn(record.failed),
        "answer": _turn(record.answer),
        "spliced": None if record.purified is None else _turn(record.purified),
        "discarded": record.tokens_discarded,
    }
