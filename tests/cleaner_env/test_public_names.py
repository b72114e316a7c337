"""What other code may rely on: names with one home, and none of it hidden in a module."""

import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import cleaner_env
from cleaner_env import CodeToolEnv, HermesFormat, SAARWrapper, transcript

ROOT = Path(__file__).parents[2]
HOMES = ("cleaner_env", "cleaner_env.chat", "cleaner_env.formats", "cleaner_env.rewards")
OPTIONAL = ("cleaner_env.chat.client", "cleaner_env.integrations")
"""Homes that need an extra, so that the others do not import them."""


@pytest.mark.parametrize("home", HOMES)
def test_every_public_name_is_there_and_is_no_module(home):
    module = import_module(home)
    assert len(set(module.__all__)) == len(module.__all__)
    assert not any(isinstance(getattr(module, name), ModuleType) for name in module.__all__)


@pytest.mark.parametrize(
    "path", [*ROOT.glob("examples/*.py"), *ROOT.glob("docs/*.md"), ROOT / "README.md"], ids=str
)
def test_what_documents_and_examples_import_is_public(path):
    text = path.read_text(encoding="utf-8")
    for home, names in re.findall(r"^from (cleaner_env[\w.]*) import (.+)$", text, re.MULTILINE):
        if not home.startswith(OPTIONAL):
            assert home in HOMES, f"{path.name} imports from {home}"
            assert set(re.findall(r"\w+", names)) <= set(import_module(home).__all__)


def test_an_integrator_builds_what_the_policy_is_shown(tokenizer):
    codec = cleaner_env.chat.ChatCodec(tokenizer)
    env = SAARWrapper(CodeToolEnv(system_prompt=None))
    _, info = env.reset(options={"task": {"prompt": "What is 6*7?", "answer": "42"}})
    call = HermesFormat().render("print(6 * 7)")
    ids = [*tokenizer.encode(call), tokenizer.eos_token_id]
    turn = cleaner_env.Completion.from_tokens(ids, [0.0] * len(ids), codec.decode, stop_length=1)
    _, _, _, _, info = env.step(turn)
    shown = cleaner_env.context_ids(
        codec.prompt_ids(env.episode.prompt), env.episode.turns, codec.observation_ids
    )
    text = codec.decode(shown)
    assert [message["content"] in text for message in info["messages"]] == [True] * 3
    assert "[tool]\n  42" in transcript(env.episode)
    env.close()
