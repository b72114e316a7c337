"""A toy policy: real architecture, real tokenizer, random weights, fast enough for every test."""

from __future__ import annotations

import pytest
import torch
import trainings
from matplotlib.figure import Figure
from transformers import Qwen3Config, Qwen3ForCausalLM

from cleaner_env.chat import ChatCodec
from cleaner_rl.grpo.samples import Sample
from cleaner_rl.models.policy import Policy

_draw = Figure.savefig


@pytest.fixture(scope="session", autouse=True)
def no_drawing():
    """Figures are saved as empty files: drawing one takes longer than a short training."""
    trainings.draw_nothing()
    yield
    Figure.savefig = _draw


@pytest.fixture
def drawing(no_drawing, monkeypatch):
    """Figures are drawn after all."""
    monkeypatch.setattr(Figure, "savefig", _draw)


@pytest.fixture
def toy_policy(tokenizer) -> Policy:
    """New weights for every test, the same ones each time."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
        max_position_embeddings=1024,
        initializer_range=0.3,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = Qwen3ForCausalLM(config).eval()
    return Policy(model, tokenizer, ChatCodec(tokenizer), "toy")


def random_sample(
    generator: torch.Generator, prompt: int, response: int, vocabulary: int
) -> Sample:
    """A sample with some of everything: prompt, counted and uncounted, grafted tokens."""
    length = prompt + response
    mask = [i >= prompt and i % 5 != 0 for i in range(length)]
    ids = torch.randint(vocabulary, (length,), generator=generator).tolist()
    values = torch.randn(length, generator=generator).tolist()
    return Sample(
        ids=tuple(ids),
        mask=tuple(mask),
        advantages=tuple(v if m else 0.0 for v, m in zip(values, mask, strict=True)),
        sampled_logprobs=tuple(-1.0 if m else 0.0 for m in mask),
        grafted=tuple(m and i % 3 == 0 for i, m in enumerate(mask)),
    )


@pytest.fixture
def samples(toy_policy) -> list[Sample]:
    """Eight samples of different lengths."""
    generator = torch.Generator().manual_seed(1)
    vocabulary = toy_policy.model.config.vocab_size
    return [random_sample(generator, 3 + i, 4 + 5 * (i % 4), vocabulary) for i in range(8)]
