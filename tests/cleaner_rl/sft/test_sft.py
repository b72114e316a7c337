"""Cold start: tokenizer, loss mask, batches, saving, and the bundled directory."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cleaner_env.chat import ChatCodec
from cleaner_env.formats import HermesFormat
from cleaner_env.tasks.families import FAMILIES
from cleaner_env.tasks.sources import ReasoningGymTasks
from cleaner_rl.errors import UserError
from cleaner_rl.models.policy import Policy, bundled_directory
from cleaner_rl.sft.__main__ import main
from cleaner_rl.sft.config import ModelArgs, SftArgs
from cleaner_rl.sft.demonstrations.episodes import Demonstration, Turn
from cleaner_rl.sft.demonstrations.examples import (
    IGNORED,
    Example,
    collate,
    encode_demonstration,
    length_batches,
)
from cleaner_rl.sft.model import build_model, check_out, save_policy
from cleaner_rl.sft.tokenizer import BOILERPLATE, SPECIAL_TOKENS, TOOL_TOKENS, train_tokenizer
from cleaner_rl.sft.training import assistant_loss, train_on_examples

CALL = HermesFormat().render("print(6 * 7)")
DEMONSTRATION = Demonstration(
    family="products",
    prompt="What is 6 * 7?",
    turns=(Turn(f"I multiply.\n{CALL}", "42"), Turn("The answer is \\boxed{42}.")),
    right=True,
    bugs=(),
)
SMALLEST = 256 + len(SPECIAL_TOKENS + TOOL_TOKENS + BOILERPLATE)
SMALL = ModelArgs(vocab_size=400, hidden_size=64, layers=1, heads=2, kv_heads=1, mlp_size=64)


@pytest.fixture(scope="module")
def fresh_tokenizer() -> Any:
    return train_tokenizer([DEMONSTRATION.prompt, DEMONSTRATION.turns[0].text] * 4, 400)


@pytest.fixture(scope="module")
def bundled_tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(bundled_directory())


@pytest.fixture(params=["fresh_tokenizer", "bundled_tokenizer"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("text", ["1203", "x = 45.67", "base3 0x1f", "a1b22", "$٣٤"])
def test_every_digit_is_a_token(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    for token in (tokenizer.decode([i]) for i in ids):
        assert len(token) == 1 or not any(c in "0123456789" for c in token)


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "  two  spaces \t\n\n and\r\nlines ",
        "h\u00e9llo \u00d7 w\u00f6rld \u2013 \u201cquotes\u201d",
        "日本語 한국어 עברית",
        "🙂👩‍👩‍👧 \U0001f9ea",
        '\\n \\\\ \\" \\u00d7 \\boxed{3}',
        "\x00\x07\ufeff\uffff",
        f"Thinking.\n{CALL}",
    ],
)
def test_text_survives(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=False) == text


def test_tool_tokens_are_single_and_not_special(tokenizer: Any) -> None:
    for token in ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"):
        ids = tokenizer(token)["input_ids"]
        assert len(ids) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == token


def test_special_tokens(tokenizer: Any) -> None:
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer("<|im_start|>")["input_ids"] != tokenizer("<|im_start|")["input_ids"]


def test_boilerplate_of_a_call_is_cheap(tokenizer: Any) -> None:
    around = len(tokenizer(CALL)["input_ids"]) - len(tokenizer("print(6 * 7)")["input_ids"])
    assert around == 4  # <tool_call>, the JSON before the code, the JSON after it, </tool_call>


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 6 * 7?"},
    {"role": "assistant", "content": f"I multiply.\n{CALL}"},
    {"role": "tool", "content": "42"},
    {"role": "tool", "content": "43"},
    {"role": "assistant", "content": "<think>hm</think> \\boxed{42}"},
    {"role": "user", "content": "Sure?"},
]


@pytest.mark.parametrize("start", [0, 1])
def test_template_is_prefix_preserving(tokenizer: Any, start: int) -> None:
    rendered = [
        tokenizer.apply_chat_template(MESSAGES[start:end], tokenize=False)
        for end in range(start + 1, len(MESSAGES) + 1)
    ]
    assert all(longer.startswith(shorter) for shorter, longer in pairwise(rendered))


def test_template_renders_structured_calls_and_tools(tokenizer: Any) -> None:
    call = {"name": "code_interpreter", "arguments": {"code": "print(6 * 7)"}}
    message = {"role": "assistant", "content": "", "tool_calls": [{"function": call}]}
    assert CALL in tokenizer.apply_chat_template([message], tokenize=False)
    with_tools = tokenizer.apply_chat_template(MESSAGES[:2], tools=[{"name": "t"}], tokenize=False)
    assert with_tools.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert '<tools>\n{"name": "t"}\n</tools>' in with_tools


def test_mask_covers_the_assistant_exactly(tokenizer: Any) -> None:
    example = encode_demonstration(DEMONSTRATION, ChatCodec(tokenizer))
    spans, current = [], []
    for token, trained in zip((*example.ids, 0), (*example.trained, False), strict=True):
        if trained:
            current.append(token)
        elif current:
            spans.append(tokenizer.decode(current, skip_special_tokens=False))
            current = []
    assert spans == [f"{turn.text}<|im_end|>" for turn in DEMONSTRATION.turns]


def test_tokens_are_the_rendered_conversation(tokenizer: Any) -> None:
    example = encode_demonstration(DEMONSTRATION, ChatCodec(tokenizer))
    first, last = DEMONSTRATION.turns
    messages = [
        {"role": "user", "content": DEMONSTRATION.prompt},
        {"role": "assistant", "content": first.text},
        {"role": "tool", "content": first.observation},
        {"role": "assistant", "content": last.text},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode(example.ids, skip_special_tokens=False) == text.removesuffix("\n")


def example(length: int) -> Example:
    return Example(tuple(range(length)), (False,) + (True,) * (length - 1))


def test_batches_hold_every_example_once_within_the_budget() -> None:
    examples = [example(length) for length in range(2, 40)]
    batches = length_batches(examples, 100, epochs=1, seed=0)
    assert sorted(len(e.ids) for batch in batches for e in batch) == list(range(2, 40))
    assert all(len(batch) * max(len(e.ids) for e in batch) <= 100 for batch in batches)


def test_half_an_epoch_is_half_the_examples() -> None:
    batches = length_batches([example(5)] * 20, 50, epochs=1.5, seed=0)
    assert sum(map(len, batches)) == 30


def test_collate_ignores_padding_and_untrained_tokens() -> None:
    ids_BT, labels_BT = collate([Example((7, 8, 9), (False, True, True)), Example((5,), (False,))])
    assert ids_BT.tolist() == [[7, 8, 9], [5, 0, 0]]
    assert labels_BT.tolist() == [[IGNORED, 8, 9], [IGNORED] * 3]


def test_loss_is_that_of_transformers(fresh_tokenizer: Any) -> None:
    model = build_model(fresh_tokenizer, SMALL, seed=0)
    ids_BT, labels_BT = collate([example(9), example(6)])
    mask_BT = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    theirs = model(input_ids=ids_BT, attention_mask=mask_BT, labels=labels_BT).loss
    torch.testing.assert_close(assistant_loss(model, ids_BT, labels_BT), theirs)


def test_training_learns_a_demonstration_and_saves_it(fresh_tokenizer: Any, tmp_path: Path) -> None:
    model = build_model(fresh_tokenizer, SMALL, seed=0)
    policy = Policy(model, fresh_tokenizer, ChatCodec(fresh_tokenizer), "small")
    batch = [encode_demonstration(DEMONSTRATION, ChatCodec(fresh_tokenizer))]
    losses: list[float] = []
    train_on_examples(
        policy,
        [batch] * 40,
        learning_rate=1e-2,
        weight_decay=0.0,
        report=lambda step, loss: losses.append(loss),
    )
    assert losses[-1] < losses[0] / 2
    out = tmp_path / "policy"
    save_policy(policy, {"figures": {}}, out)
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert loaded.dtype == torch.float32
    assert math.isclose(
        assistant_loss(loaded, *collate(batch)).item(),
        assistant_loss(model, *collate(batch)).item(),
        rel_tol=0.05,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy"]


def test_full_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="--overwrite"):
        check_out(tmp_path, overwrite=False)
    with pytest.raises(UserError, match="something other than a policy"):
        check_out(tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_file_and_impossible_parent_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        check_out(tmp_path / "file", overwrite=True)
    with pytest.raises(UserError, match="cannot write"):
        main(["--out", str(tmp_path / "file" / "policy")])


def test_an_unknown_device_is_refused_before_anything_is_generated(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        main(["--device", "gpu", "--out", str(tmp_path / "policy"), "--tasks", "not read"])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"heads": 0}, "--model.heads must be at least 1"),
        ({"heads": 5}, "--model.heads must be a multiple of --model.kv-heads"),
        ({"vocab_size": SMALLEST - 1}, f"--model.vocab-size must be at least {SMALLEST}"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(shape: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        ModelArgs(**shape)


def test_the_smallest_vocabulary_can_be_learned() -> None:
    assert len(train_tokenizer(["one text"], SMALLEST)) == SMALLEST


def test_help_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "--out" in shown and "--mix.wrong" in shown and "Peak learning rate" in shown


def test_defaults_are_those_the_bundled_policy_was_built_with() -> None:
    built = json.loads((bundled_directory() / "build.json").read_text())["configuration"]
    defaults = SftArgs()
    for name in ("seed", "demonstrations", "clean_epochs", "epochs", "learning_rate"):
        assert built[name] == getattr(defaults, name)


def test_bundled_directory_is_small_and_loads(bundled_tokenizer: Any) -> None:
    directory = bundled_directory()
    assert sum(path.stat().st_size for path in directory.rglob("*")) < 8_000_000
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert model.config.model_type == "qwen3" and model.config.tie_word_embeddings
    assert model.dtype == torch.float32
    assert 1_500_000 <= sum(p.numel() for p in model.parameters()) <= 3_000_000
    assert model.config.eos_token_id == bundled_tokenizer.eos_token_id


def test_questions_are_short_for_the_bundled_tokenizer(bundled_tokenizer: Any) -> None:
    tasks = ReasoningGymTasks(split="test", seed=1)
    lengths = [len(bundled_tokenizer(tasks[i].prompt)["input_ids"]) for i in range(len(FAMILIES))]
    assert max(lengths) <= 70
