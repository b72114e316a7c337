"""What a saved directory holds for transformers 4, and for servers that are built on it.

The comparison of logits needs a folder with transformers 4, which the variable names:

    pip install --no-deps --target transformers4 transformers==4.57.1 tokenizers==0.22.1 \
        huggingface_hub==0.36.0 requests urllib3 charset_normalizer idna certifi regex
    TRANSFORMERS4=transformers4 pytest -m exhaustive tests/cleaner_rl/models/test_old_names.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cleaner_rl.config import ExportConfig, TrainConfig
from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.export import export
from cleaner_rl.models.lora import add_lora
from cleaner_rl.models.old_names import add_old_names
from cleaner_rl.models.policy import bundled_directory, load_policy
from cleaner_rl.runs.checkpoint import save_checkpoint
from cleaner_rl.runs.run_directory import RunDirectory
from cleaner_rl.sft.model import save_policy

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 1024,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,
    "eos_token_id": 1013,
    "torch_dtype": "bfloat16",
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}
OLD = {
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Tokenizer", {"rope_theta": 1e6}),
    "qwen3": ("Qwen3ForCausalLM", "Qwen2Tokenizer", {"rope_theta": 1e6}),
    "llama": (
        *("LlamaForCausalLM", "PreTrainedTokenizerFast"),
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
    ),
    "gemma3_text": (
        *("Gemma3ForCausalLM", "PreTrainedTokenizerFast"),
        {"rope_theta": 3e6, "rope_local_base_freq": 20000.0, "sliding_window": 16},
    ),
    "stablelm": (
        *("StableLmForCausalLM", "PreTrainedTokenizerFast"),
        {"rope_theta": 3e4, "partial_rotary_factor": 0.5},
    ),
    "gpt_neox": (
        *("GPTNeoXForCausalLM", "PreTrainedTokenizerFast"),
        {"rotary_emb_base": 3e4, "rotary_pct": 0.5},
    ),
}
"""Architecture, class of the tokenizer, and settings as transformers 4 names them."""


def write_source(directory, kind):
    """A directory as transformers 4 wrote it, and as the hub has it."""
    architecture, tokenizer, names = OLD[kind]
    directory.mkdir()
    for file in ("tokenizer.json", "chat_template.jinja"):
        (directory / file).write_text((bundled_directory() / file).read_text("utf-8"), "utf-8")
    described = {
        "tokenizer_class": tokenizer,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": ["<|im_start|>"],
        "model_max_length": 1024,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(described))
    config = {"architectures": [architecture], "model_type": kind, **SHAPE, **names}
    if kind == "gpt_neox":
        del config["num_key_value_heads"], config["head_dim"]
    (directory / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    model.save_pretrained(directory / "weights")
    (directory / "weights" / "model.safetensors").rename(directory / "model.safetensors")
    return directory


def read(directory, file="config.json"):
    return json.loads((directory / file).read_text("utf-8"))


@pytest.fixture(params=OLD)
def kind(request):
    return request.param


def test_a_saved_model_keeps_the_names_of_its_source(kind, tmp_path):
    source = write_source(tmp_path / "source", kind)
    load_policy(str(source), "cpu").save(tmp_path / "saved")
    saved = read(tmp_path / "saved")
    assert {name: saved[name] for name in OLD[kind][2]} == OLD[kind][2]
    tokenizer = read(tmp_path / "saved", "tokenizer_config.json")
    assert tokenizer["tokenizer_class"] == OLD[kind][1]
    assert tokenizer["additional_special_tokens"] == ["<|im_start|>"]
    assert "extra_special_tokens" not in tokenizer


def in_a_checkpoint(policy, out):
    save_checkpoint(out, policy, policy.model, {}, {"step": 1}, Ranks("cpu"))


def with_merged_adapters(policy, out):
    add_lora(policy.model, 2, 4.0)
    policy.save(out)


def after_a_cold_start(policy, out):
    save_policy(policy, {}, out)


def by_an_export(policy, out):
    run = RunDirectory.create(out.with_name("run"), TrainConfig())
    in_a_checkpoint(policy, run.path / "checkpoints" / "step-000001")
    export(ExportConfig(run.path, out))


def of_a_copy(policy, out):
    policy.save(out.with_name("copy"))
    load_policy(str(out.with_name("copy")), "cpu").save(out)


@pytest.mark.parametrize(
    "save", [in_a_checkpoint, with_merged_adapters, after_a_cold_start, by_an_export, of_a_copy]
)
def test_every_place_that_saves_keeps_them(save, tmp_path):
    save(load_policy(str(write_source(tmp_path / "source", "llama")), "cpu"), tmp_path / "saved")
    saved = read(tmp_path / "saved")
    assert (saved["rope_theta"], saved["rope_scaling"]) == (5e5, LLAMA3)
    tokenizer = read(tmp_path / "saved", "tokenizer_config.json")
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_source_without_them_gives_the_same(kind, tmp_path):
    source = write_source(tmp_path / "source", kind)
    load_policy(str(source), "cpu").save(tmp_path / "saved")
    new = AutoConfig.from_pretrained(source)
    new.save_pretrained(tmp_path / "new")
    assert not OLD[kind][2].keys() - {"sliding_window"} & read(tmp_path / "new").keys()
    (tmp_path / "new" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "TokenizersBackend"}'
    )
    add_old_names(tmp_path / "new", {})
    derived = read(tmp_path / "new")
    assert {name: derived[name] for name in OLD[kind][2]} == OLD[kind][2]
    tokenizer = read(tmp_path / "new", "tokenizer_config.json")
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_the_new_names_mean_what_they_did(kind, tmp_path):
    source = write_source(tmp_path / "source", kind)
    load_policy(str(source), "cpu").save(tmp_path / "saved")
    before, after = (AutoConfig.from_pretrained(tmp_path / d) for d in ("source", "saved"))
    assert before.rope_parameters == after.rope_parameters
    again, policy = (load_policy(str(tmp_path / d), "cpu") for d in ("saved", "source"))
    ids = torch.arange(20, 84)[None]
    with torch.no_grad():
        assert torch.equal(again.model(ids).logits, policy.model(ids).logits)
    assert again.codec.stop_ids == policy.codec.stop_ids


def test_a_model_inside_a_model_keeps_them_too(tmp_path):
    """As the text model of Gemma 3 from 4B up."""
    text = {"rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 7.0}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "m", "text_config": text}))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GemmaTokenizer"}')
    add_old_names(tmp_path, {"text_config": {"rope_local_base_freq": 5.0}})
    saved = read(tmp_path)["text_config"]
    assert saved["rope_theta"] == 7.0
    assert saved["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert saved["rope_local_base_freq"] == 5.0


def test_the_bundled_policy_and_a_cold_start_have_them(tmp_path):
    policy = load_policy("bundled", "cpu")
    save_policy(policy, {}, tmp_path / "taught")
    for directory in (bundled_directory(), tmp_path / "taught"):
        assert read(directory)["rope_theta"] == 10000.0
        tokenizer = read(directory, "tokenizer_config.json")
        assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_weights_have_the_permissions_of_their_neighbours(tmp_path, mask):
    policy = load_policy("bundled", "cpu")
    before = os.umask(mask)
    try:
        policy.save(tmp_path / "saved")
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "saved").iterdir()}
    assert set(modes.values()) == {0o666 & ~mask}, modes


PROGRAM = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], torch_dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
print(tokenizer("What is 6 * 7?<|im_end|>")["input_ids"])
with torch.no_grad():
    print(model(torch.arange(20, 84)[None]).logits[0, -1].tolist())
"""


@pytest.mark.exhaustive
def test_transformers_4_computes_the_same(kind, tmp_path):
    folder = os.environ.get("TRANSFORMERS4")
    if folder is None:
        pytest.skip("TRANSFORMERS4 names no folder with transformers 4")
    load_policy(str(write_source(tmp_path / "source", kind)), "cpu").save(tmp_path / "saved")
    policy = load_policy(str(tmp_path / "saved"), "cpu")
    environment = {**os.environ, "PYTHONPATH": str(Path(folder).resolve())}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "saved")]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    ids, logits = map(json.loads, printed.stdout.splitlines()[-2:])
    assert ids == policy.tokenizer("What is 6 * 7?<|im_end|>")["input_ids"]
    with torch.no_grad():
        ours = policy.model(torch.arange(20, 84)[None]).logits[0, -1]
    torch.testing.assert_close(torch.tensor(logits), ours, atol=2e-4, rtol=1e-4)
