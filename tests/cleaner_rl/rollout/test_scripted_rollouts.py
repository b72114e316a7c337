"""The trainer's rollout plays the scripts as their file says, which other loops are held to."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from scripted_rollouts import FILE, MAX_LENGTH, SCRIPTS, TASK, ScriptedSandbox, expected, turns
from transformers import Qwen3Config

from cleaner_env import Completion
from cleaner_env.token_samples import purified_sample
from cleaner_rl.models.policy import KNOWS_TOOL, Policy, load_codec, load_tokenizer
from cleaner_rl.rollout.rollout import Rollout
from cleaner_rl.settings import EpisodeConfig


class ScriptedSampler:
    """Gives each episode the next turn of its script."""

    clock = 0

    def __init__(self, codec):
        self.codec = codec
        self.reset()

    def reset(self):
        self.asked = []
        self.left = [turns(self.codec.tokenizer, name) for name in SCRIPTS]

    def submit(self, request):
        self.asked.append(request.key)

    def forget(self, key):
        pass

    def advance(self):
        self.clock += 1000  # as if every program had ended long ago
        asked, self.asked = self.asked, []
        return [(key, self.turn(key)) for key in asked]

    def turn(self, key):
        ids, logprobs = self.left[key].pop(0)
        stop = int(ids[-1] in self.codec.stop_ids)
        decode = self.codec.decode
        return Completion.from_tokens(ids, logprobs, decode, stop_length=stop, truncated=not stop)


def rows():
    """The rows that the trainer's rollout makes of the scripts."""
    codec = load_codec(load_tokenizer("bundled"))
    model = SimpleNamespace(config=Qwen3Config(**{KNOWS_TOOL: True}), device=torch.device("cpu"))
    policy = Policy(model, codec.tokenizer, codec, "scripted")
    config = EpisodeConfig(max_response_tokens=MAX_LENGTH, max_turn_tokens=MAX_LENGTH)
    with Rollout(policy, ScriptedSampler(codec), config, ScriptedSandbox()) as rollout:
        episodes = rollout.play([TASK] * len(SCRIPTS), seed=0)
        return {
            name: row(episode, rollout) for name, episode in zip(SCRIPTS, episodes, strict=True)
        }


def row(episode, rollout):
    prompt = rollout.prompt_ids(episode)
    sample = purified_sample(episode, prompt, rollout.observation_ids)
    start = len(prompt)
    return {
        "prompt_ids": prompt,
        "response_ids": list(sample.ids[start:]),
        "mask": [int(own) for own in sample.mask[start:]],
        "logprobs": [round(value, 6) for value in sample.logprobs[start:]],
        "grafted": list(sample.grafted[start:]),
        "reward": episode.reward,
    }


def test_the_rollout_plays_the_scripts_as_the_file_says():
    assert rows() == expected()


@pytest.mark.parametrize("name", ["shallow", "deep", "later", "malformed", "exhausted"])
def test_scripts_with_a_splice_have_grafted_tokens(name):
    assert any(expected()[name]["grafted"]) and not all(expected()[name]["grafted"])


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows().items()]
    FILE.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
