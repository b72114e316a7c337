"""Groups of scripted episodes, logged as a training step logs them, without a model.

Ids are characters, the prompt is ``Q`` and a result is written in braces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from scripted import decode, sampled

from cleaner_env import CodeToolEnv, Episode, SAARWrapper, Sandbox
from cleaner_env.formats.protocol import ParsedTurn
from cleaner_rl.config import TrainConfig
from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.grpo.groups import Group, minibatch_samples
from cleaner_rl.learner.packing import Pack
from cleaner_rl.view.trace import StepTrace

PROMPT = list(map(ord, "Q"))
TURNS = ("a[print(x)]", "b[print(y)]", "a[print(3)]", "ok")
"""Two failed calls that a third replaces, then an answer."""


class Brackets:
    """A tool-call format in which ``a[code]`` calls the tool with ``code``."""

    name = "brackets"

    def parse(self, text: str) -> ParsedTurn:
        start = text.find("[")
        if start < 0:
            return ParsedTurn(text, None, None, None, len(text))
        return ParsedTurn(text[:start], text[start:], text[start + 1 : -1], None, start)


def observation_ids(text: str, stop_id: int | None = None) -> list[int]:
    return list(map(ord, f"{{{text}}}"))


def play(sandbox: Sandbox, *turns: str, **saar) -> Episode:
    """An episode in which turn i was sampled with log-probability -i, from 1."""
    env = CodeToolEnv([{"prompt": "?", "answer": "1"}], sandbox=sandbox, system_prompt=None)
    env.format = Brackets()
    wrapped = SAARWrapper(env, similarity=lambda a, b: float(a[0] == b[0]), **saar)
    wrapped.reset(seed=0)
    for i, turn in enumerate(turns):
        wrapped.step(sampled(turn, logprob=-float(i + 1)))
    return wrapped.episode


class Characters:
    """The tokenizer of these ids."""

    def decode(self, ids: Sequence[int], **_) -> str:
        return decode(ids)


ROLLOUT = SimpleNamespace(
    prompt_ids=lambda episode: PROMPT,
    observation_ids=observation_ids,
    policy=SimpleNamespace(tokenizer=Characters()),
)


def rows_of(
    played: Sequence[Group], kept: Sequence[Group], rule: str = "purified", count: int = 99
) -> list[dict]:
    """The lines of a step; every token's log-probability is now -0.5, its entropy 0.25."""
    trace = StepTrace.of(played, kept, count)
    minibatches = minibatch_samples(
        kept, len(kept), rule, "recompute", lambda _: PROMPT, observation_ids, Ranks("cpu")
    )
    used = [sample for samples in minibatches for sample in samples if sample.has_signal]
    if used:
        row = Pack.of(used)
        trace.see(
            row, torch.full_like(row.advantages_T, -0.5), torch.full_like(row.weights_T, 0.25)
        )
    config = replace(TrainConfig(), credit=rule)
    return list(trace.rows(7, ROLLOUT, config, [trace.values(minibatches)]))
