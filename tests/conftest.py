"""What the tests of all packages share: a sandbox and a tokenizer."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import sandbox.pool
from cleaner_env import Sandbox, SandboxError

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; toys need no more
sandbox.pool.HEAVY_PRELOAD = ()  # tests make many sandboxes; those of the heavy modules say so


@pytest.fixture(scope="session", name="sandbox")
def shared_sandbox() -> Iterator[Sandbox]:
    """One sandbox for the whole session."""
    try:
        shared = Sandbox(workers=1)
    except SandboxError as error:
        pytest.skip(f"no sandbox on this machine: {error}")
    with shared:
        yield shared


@pytest.fixture(scope="session")
def tokenizer():
    """A small one with the bundled policy's chat template."""
    from cleaner_rl.sft.tokenizer import train_tokenizer

    corpus = ["What is 3 + 4? The answer is \\boxed{7}.", "import math\nprint(math.gcd(6, 4))"] * 4
    return train_tokenizer(corpus, 320)


@pytest.fixture
def reward_module(tmp_path, monkeypatch):
    """Makes the current directory one with a module of this source, and gives the module's name."""
    name = f"rewards_of_{uuid4().hex}"

    def make(source: str) -> str:
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        return name

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield make
    sys.modules.pop(name, None)


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector need not look at it again and again."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One process does all tests of a file, and one all files that share a server of trainings."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            text = Path(config.rootpath, file).read_text(encoding="utf-8")
            return "trainings" if "\nimport trainings\n" in text else file

    return ByFile(config, log)
