"""Sandboxes to share: a strong one for most tests, and a weak one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import sandbox.jail
import sandbox.pool
from sandbox import IsolationUnavailable, Limits, Sandbox, Session
from sandbox.jail import Jail

QUICK = Limits(wall_s=10.0, cpu_s=10.0)
TIER = os.environ.get("SANDBOX_TEST_TIER", "")  # the tier to test; empty: the best there is


@pytest.fixture(scope="session")
def box() -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        if TIER:
            force_tier(patch, TIER)
        try:
            shared = Sandbox(limits=QUICK)
        except IsolationUnavailable as error:
            pytest.skip(str(error))
        with shared:
            yield shared


@pytest.fixture
def session(box: Sandbox) -> Iterator[Session]:
    if box.tier != "full":
        pytest.skip(f"sessions need tier full, and this machine gives {box.tier}")
    with box.session() as opened:
        yield opened


def force_tier(patch: pytest.MonkeyPatch, tier: str) -> None:
    """Let new sandboxes know of no other tier."""

    def candidates(bwraps: Sequence[str]) -> list[Jail]:
        return [Jail(tier, bwrap) for bwrap in ([None] if tier == "landlock" else bwraps)]

    patch.setattr(sandbox.pool, "candidate_jails", candidates)


@pytest.fixture(autouse=True)
def serves_afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a program did to it, the same worker runs the next one."""
    yield
    if "box" in request.fixturenames and "denials" not in request.fixturenames:
        shared = request.getfixturevalue("box")
        assert shared.run("print('alive')").stdout == "alive\n"
        assert shared.faults == 0


@pytest.fixture
def no_layers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """New workers find neither seccomp nor Landlock: the walls behind them have to hold alone."""
    copy = tmp_path / "jailed"
    shutil.copytree(sandbox.jail.JAILED, copy, ignore=shutil.ignore_patterns("__pycache__"))
    with open(copy / "seccomp.py", "a") as file:
        file.write("\n\ndef missing() -> str:\n    return 'not in this test'\n")
    with open(copy / "landlock.py", "a") as file:
        file.write("\n\ndef abi() -> int:\n    return 0\n")
    monkeypatch.setattr(sandbox.jail, "JAILED", copy)


@pytest.fixture(params=["layers", "no layers"])
def either(request: pytest.FixtureRequest) -> bool:
    """Twice: with what this kernel has of seccomp and Landlock, and without; whether with."""
    if request.param == "no layers":
        request.getfixturevalue("no_layers")
    return bool(request.param == "layers")
