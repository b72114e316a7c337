"""Page data: everything that the page shows, as plain JSON.

The whole, which is in the page::

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
        "rule": "purified" | null, "gamma": 0.5 | null,                     those of its run
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
      "chunks": ["base64 of gzip of JSON", ...] | null     null: fetch chunks/N, which the local
                                            server answers with the JSON itself
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
                    f"what step {chunk[0].step} of {source.title} recorded with its episodes is "
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


def _chunked(logged: Iterable[Logged]) -> Iterator[list[Logged]]:
    chunk: list[Logged] = []
    for _, same in groupby(logged, key=lambda one: one.group):
        chunk += same
        if len(chunk) >= _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _add(
    top: dict[str, Any], part: Part, logged: Sequence[Logged], place: int
) -> list[dict[str, Any]]:
    """Add the groups and episodes of a chunk to the page data; returns the chunk."""
    chunk: list[dict[str, Any]] = []
    for _, same in groupby(logged, key=lambda one: one.group):
        members = list(same)
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
        **gaps(layer),
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
            "score": number(episode.score),
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
        "similarity": number(record.similarity),
        "failed": _turn(record.failed),
        "answer": _turn(record.answer),
        "spliced": None if record.purified is None else _turn(record.purified),
        "discarded": record.tokens_discarded,
    }
