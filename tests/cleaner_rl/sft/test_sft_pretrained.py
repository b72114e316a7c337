"""Cold start of a pretrained model: what is trained and saved, and how it resumes after Ctrl-C."""

import json
import re
import signal
from pathlib import Path

import pytest
import templates
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

import cleaner_rl.sft.training as sft_training
from cleaner_env.chat import ChatCodec
from cleaner_rl.errors import CheckpointError, PolicyError, UserError
from cleaner_rl.models.policy import load_policy
from cleaner_rl.sft.__main__ import main
from cleaner_rl.sft.config import SFT_PRESETS
from cleaner_rl.sft.demonstrations.episodes import Demonstration, Turn
from cleaner_rl.sft.demonstrations.examples import encode_demonstration
from cleaner_rl.sft.model import load_base
from cleaner_rl.sft.tokenizer import train_tokenizer

CORPUS = ["What is 3 + 4? The answer is \\boxed{7}.", "import math\nprint(math.gcd(6, 4))"] * 4
SLIP = Demonstration(
    family="products",
    prompt="What is 6 * 7?",
    turns=(Turn("BUG", "NameError"), Turn("FIX", "42"), Turn("ANSWER")),
    right=True,
    bugs=("misspelt_name",),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A tiny Llama with SmolLM2's template, which knows no tools."""
    directory = tmp_path_factory.mktemp("base") / "model"
    tokenizer = train_tokenizer(CORPUS, 320)
    tokenizer.chat_template = templates.CHATML
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def arguments(base, tmp_path):
    """A cold start of seconds."""
    return [
        *("--preset", "smollm2", "--base", str(base), "--out", str(tmp_path / "policy")),
        *("--tasks", "reasoning-gym:gcd,chain_sum", "--demonstrations", "10", "--workers", "1"),
        *("--device", "cpu", "--dtype", "float32", "--max-tokens", "2000", "--eval-tasks", "0"),
        *("--batch-tokens", "700"),
    ]


def weights(directory):
    return load_file(directory / "model.safetensors")


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def trained_text(example, tokenizer):
    kept = [token for token, t in zip(example.ids, example.trained, strict=True) if t]
    return tokenizer.decode(kept)


@pytest.mark.parametrize(
    ("learn_slips", "text"),
    [
        (True, "BUG<|im_end|>FIX<|im_end|>ANSWER<|im_end|>"),
        (False, "FIX<|im_end|>ANSWER<|im_end|>"),
    ],
)
def test_slips_are_read_and_not_learned_unless_wanted(tokenizer, learn_slips, text):
    example = encode_demonstration(SLIP, ChatCodec(tokenizer), learn_slips)
    assert trained_text(example, tokenizer) == text
    assert "BUG" in tokenizer.decode(example.ids)


def test_the_presets_say_whose_slips_are_learned():
    assert SFT_PRESETS["tiny"].learn_slips and not SFT_PRESETS["smollm2"].learn_slips


def test_a_base_gets_the_mark_and_shows_the_format(base):
    plain, policy = load_policy(str(base), "cpu"), load_base(str(base), "cpu", 512)
    assert (plain.knows_tool, plain.codec.tool_format) == (False, None)
    assert (policy.knows_tool, policy.codec.tool_format) == (True, "hermes")
    question = [{"role": "user", "content": "What is 6 * 7?"}]
    assert policy.codec.prompt_ids(question) == plain.codec.prompt_ids(question)
    assert policy.codec.observation_ids("42") == plain.codec.observation_ids("42")


def test_a_cold_start_in_miniature(arguments, base, tmp_path, capsys):
    evaluated = ["--eval-tasks", "2", "--max-turn-tokens", "8", "--max-response-tokens", "16"]
    assert main([*arguments, *evaluated]) == 0
    out = tmp_path / "policy"
    build = json.loads((out / "build.json").read_text())
    assert build["figures"]["held_out"]["tasks"] == 2
    assert set(build["figures"]["held_out"]["families"]) == {"gcd", "chain_sum"}
    assert not same(weights(base), weights(out))
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    policy = load_policy(str(out), "cpu")
    assert (policy.knows_tool, policy.codec.tool_format) == (True, "hermes")
    shown = capsys.readouterr().out
    assert "no GSM8K among --tasks" in shown
    assert re.search(r"training steps: (\d+)/\1, loss [\d.]+, \d+ tokens/s, .*left 0:00", shown)


@pytest.fixture
def interrupted(arguments, monkeypatch, capsys):
    """The same cold start, stopped by Ctrl-C in its second step."""
    plain, calls = sft_training.assistant_loss, []

    def loss(*inputs):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return plain(*inputs)

    monkeypatch.setattr(sft_training, "assistant_loss", loss)
    assert main(arguments) == 130
    monkeypatch.undo()
    assert "the same command with --resume" in capsys.readouterr().err
    return arguments


def test_an_interrupted_training_continues_to_the_same_bits(interrupted, tmp_path):
    assert main([*interrupted, "--resume"]) == 0
    whole = [*interrupted[:5], str(tmp_path / "whole"), *interrupted[6:]]
    assert main(whole) == 0
    assert same(weights(tmp_path / "policy"), weights(tmp_path / "whole"))
    assert not list(tmp_path.glob(".*"))


def test_an_interrupted_training_is_not_discarded_unasked(interrupted, tmp_path):
    with pytest.raises(UserError, match="add --resume to continue it, or --overwrite"):
        main(interrupted)
    assert main([*interrupted, "--overwrite"]) == 0
    assert not list(tmp_path.glob(".*"))


def test_a_resumed_training_keeps_its_settings(interrupted, tmp_path):
    with pytest.raises(CheckpointError, match="other settings: --learning-rate;"):
        main([*interrupted, "--resume", "--learning-rate", "1e-3"])
    (tmp_path / ".policy.training" / "trainer" / "state.json").write_bytes(b"{")
    with pytest.raises(CheckpointError, match="start again with --overwrite"):
        main([*interrupted, "--resume"])


@pytest.mark.parametrize(
    ("more", "error", "why"),
    [
        (["--resume"], UserError, "no interrupted training"),
        (["--base", "./nowhere"], PolicyError, "no directory nowhere"),
        (["--tasks", "gsm8k:nowhere.jsonl"], UserError, r"nowhere\.jsonl"),
        (["--tasks", "reasoning-gym:maze"], UserError, "only 0 of"),
        (["--max-tokens", "20"], UserError, "longer than 20 tokens; raise --max-tokens"),
        (["--model.layers", "2"], UserError, r"--model\.\* shapes a model from scratch"),
        (["--epochs", "0"], UserError, "give --epochs above 0"),
        (["--demonstrations", "0"], UserError, "--demonstrations must be at least 1"),
    ],
)
def test_impossible_settings_are_reported(arguments, tmp_path, more, error, why):
    with pytest.raises(error, match=why):
        main([*arguments, *more])
    assert list(tmp_path.iterdir()) == []


def test_missing_held_out_tasks_are_told_before_the_training(arguments, tmp_path, tmp_path_factory):
    rows = tmp_path_factory.mktemp("tasks") / "one.jsonl"
    rows.write_text('{"prompt": "What is 6*7?", "answer": "42"}\n')
    with pytest.raises(UserError, match="too few tasks for a test split"):
        main([*arguments, "--tasks", f"{rows}@holdout=0", "--eval-tasks", "2"])
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_preset_error_lists_the_presets():
    with pytest.raises(UserError, match="unknown preset 'small'; use one of: tiny, smollm2"):
        main(["--preset", "small"])
