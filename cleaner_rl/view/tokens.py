"""Tokens: the sequences that an episode is trained on, and what each credit rule makes of them.

A lane is a sequence of tokens as the policy was shown it: the purified trajectory, or the context
of a removed call or of a lookahead. Credit rules differ in the advantages of a lane's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from math import inf, isfinite
from statistics import stdev
from typing import Any, get_args

from cleaner_env.episode import Episode, Turn
from cleaner_env.token_samples import ObservationIds, observations, stop_id
from cleaner_rl.grpo.advantages import branched_advantages, group_advantages
from cleaner_rl.grpo.credit import branches_join, episode_samples
from cleaner_rl.grpo.samples import Sample
from cleaner_rl.settings import CreditRule

RULES: tuple[CreditRule, ...] = get_args(CreditRule)
Runs = list[list[Any]]
"""Run lengths: ``[count, value]`` pairs."""


def runs(values: Sequence[Any]) -> Runs:
    """Values as run lengths."""
    return [[len(list(same)), value] for value, same in groupby(values)]


def unrolled(pairs: Runs) -> list[Any]:
    """The values that ``runs`` took."""
    return [value for count, value in pairs for _ in range(count)]


def number(value: Any) -> Any:
    """A float with five significant digits, or None if it is not finite, which JSON lacks."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if isfinite(value) else None


def nats(values: Sequence[float | None]) -> list[float | None]:
    """Log-probabilities or entropies to six decimals: gaps between them may be as small."""
    return [None if v is None or not isfinite(v) else round(v, 6) for v in values]


def spread(rewards: Sequence[float]) -> float:
    """The standard deviation of a group's rewards; infinite if one of them is not finite."""
    if not all(map(isfinite, rewards)):
        return inf
    return stdev(rewards) if len(rewards) > 1 else 0.0


def advantages_by_rule(training: Mapping[str, Any], branches: int) -> dict[str, Any]:
    """For each rule, the advantages of a group's members and of its branches.

    Members without an advantage were not trained and do not take part. The rule of the run has the
    advantages that were trained.
    """
    trained: list[float | None] = training["advantages"]
    rewards = [r for r, a in zip(training["rewards"], trained, strict=True) if a is not None]
    found: dict[str, Any] = {}
    for rule in RULES:
        shared = list(trained), training["branch_advantage"]
        if rule != training["rule"] and len(rewards) > 1:
            if branches_join(rule):
                reward = training["branch_reward"]
                values, branch = branched_advantages(rewards, branches, reward, training["scaled"])
            else:
                values, branch = group_advantages(rewards, scaled=training["scaled"]), 0.0
            left = iter(values)
            shared = [None if a is None else next(left) for a in trained], branch
        found[rule] = {"members": list(map(number, shared[0])), "branches": number(shared[1])}
    return found


def token_layer(
    episode: Episode, training: Mapping[str, Any], by_rule: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The lanes of an episode and their credit, see ``cleaner_rl.view.data``.

    None for an episode that was not trained, or whose turns carry no tokens.
    """
    if any(turn.completion.tokens is None for turn in episode.raw_turns):
        return None
    known = dict(zip(observations(episode), training["observation_ids"], strict=True))

    def observation_ids(text: str, stop: int | None = None) -> list[int]:
        return list(known[text, stop])

    lanes = _lanes(episode, training["prompt_ids"], observation_ids)
    # The first sample is the purified trajectory, even if another lane has the same tokens.
    places = {lane["ids"]: number for number, lane in enumerate(lanes) if number > 0}
    rules: dict[str, list[dict[str, Any]]] = {}
    for rule in RULES:
        advantage = by_rule[rule]["members"][training["member"]]
        if advantage is None:
            continue
        samples = episode_samples(
            episode,
            advantage,
            training["prompt_ids"],
            observation_ids,
            rule,
            training["grafted"],
            None,
            by_rule[rule]["branches"],
        )
        credits = [credit_of(sample) for sample in samples]
        if rule == training["rule"]:
            credits = [saved["credit"] for saved in training["samples"]] or credits
        rules[rule] = []
        for number, (sample, credit) in enumerate(zip(samples, credits, strict=True)):
            place = 0 if number == 0 else places.setdefault(sample.ids, len(lanes))
            if place == len(lanes):
                lanes.append(_unknown_lane(sample))
            rules[rule].append({"lane": place, "credit": credit})
            if rule == training["rule"] and training["samples"]:
                _fill(lanes[place], credit, training["samples"][number])
    return {"lanes": [lane | {"ids": list(lane["ids"])} for lane in lanes], "rules": rules}


def gaps(layer: Mapping[str, Any] | None) -> dict[str, float | None]:
    """The largest gaps between sampler and trainer, of sampled and of grafted tokens."""
    found: dict[str, list[float]] = {"s": [], "g": []}
    for lane in [] if layer is None else layer["lanes"]:
        values = zip(lane["origin"], lane["sampled"], lane["recomputed"] or (), strict=False)
        for origin, then, now in values:
            if origin in found and then is not None and now is not None:
                found[origin].append(abs(now - then))
    worst = nats([max(of, default=None) for of in found.values()])
    return dict(zip(("gap", "grafted_gap"), worst, strict=True))


def _lanes(
    episode: Episode, prompt_ids: Sequence[int], observation_ids: ObservationIds
) -> list[dict[str, Any]]:
    """The purified trajectory, then the contexts of removed calls and of lookaheads."""
    lanes = [_lane("purified", None, prompt_ids, episode.turns, observation_ids)]
    for number, record in enumerate(episode.rollbacks):
        shown = [*episode.turns[: record.position], record.failed]
        if record.retry == 1:
            lanes.append(_lane("removed call", number, prompt_ids, shown, observation_ids))
        answered = [*shown, record.answer]
        lanes.append(_lane("lookahead", number, prompt_ids, answered, observation_ids))
    return lanes


def _lane(
    kind: str,
    rollback: int | None,
    prompt_ids: Sequence[int],
    turns: Sequence[Turn],
    observation_ids: ObservationIds,
) -> dict[str, Any]:
    """Turns after a prompt; what follows the last one is left out, as in training."""
    ids, origin = list(prompt_ids), "p" * len(prompt_ids)
    sampled: list[float | None] = [None] * len(prompt_ids)
    of_turn: Runs = [[len(ids), -1]]
    for number, turn in enumerate(turns):
        tokens = turn.completion.tokens
        assert tokens is not None, "checked by the caller"
        ids += tokens.ids
        origin += "".join("g" if grafted else "s" for grafted in tokens.grafted)
        sampled += nats(tokens.logprobs)
        length = len(tokens)
        if turn.observation is not None and number < len(turns) - 1:
            more = observation_ids(turn.observation, stop_id(tokens))
            ids += more
            origin += "e" * len(more)
            sampled += [None] * len(more)
            length += len(more)
        of_turn.append([length, number])
    computed = {"recomputed": None, "entropy": None}  # filled later, if a pass was made
    known = {"kind": kind, "rollback": rollback, "ids": tuple(ids), "origin": origin}
    return {**known, "turn": of_turn, "sampled": sampled, **computed}


def _unknown_lane(sample: Sample) -> dict[str, Any]:
    """A sequence of a rule that trains on other contexts than the rules above."""
    letters = zip(sample.grafted, sample.mask, strict=True)
    pairs = zip(sample.sampled_logprobs, sample.mask, strict=True)
    return {
        **_lane("extra", None, sample.ids, (), lambda *_: []),
        "origin": "".join("g" if grafted else "s" if mask else "e" for grafted, mask in letters),
        "turn": [],
        "sampled": nats([p if mask else None for p, mask in pairs]),
    }


def credit_of(sample: Sample) -> Runs:
    """The advantage of every token; None where it is not in the loss."""
    pairs = zip(sample.advantages, sample.mask, strict=True)
    return runs([number(a) if mask else None for a, mask in pairs])


def _fill(lane: dict[str, Any], credit: Runs, saved: Mapping[str, Any]) -> None:
    """Put the values that the update computed, one for each token in the loss, into a lane."""
    for name, values in (("recomputed", saved["logprobs"]), ("entropy", saved["entropies"])):
        if values is None:
            continue
        left = iter(values)
        old = lane[name] or [None] * len(lane["ids"])
        lane[name] = [
            before if advantage is None else next(left)
            for before, advantage in zip(old, unrolled(credit), strict=True)
        ]
