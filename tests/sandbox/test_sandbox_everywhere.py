"""The attacks and the results, again in every tier that this machine allows, as root and not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sandbox
from sandbox import TIERS

ROOT = Path(sandbox.__file__).parents[1]
PLAIN_USER = ROOT / "tests/support/plain_user.py"
NAMES = ("attacks", "multiprocessing", "neighbours", "results")
SUITES = [f"tests/sandbox/test_sandbox_{name}.py" for name in NAMES]

pytestmark = pytest.mark.exhaustive


def test_suite(tier: str, user: str) -> None:
    if user == "plain user" and os.geteuid() != 0:
        pytest.skip("a plain user is who runs the other half")
    if user == "root" and tier == "full" and os.geteuid() == 0:
        pytest.skip("that is what the plain run of these tests does")
    start = [str(PLAIN_USER), str(ROOT)] if user == "plain user" else ["-m", "pytest"]
    suites = [*SUITES, "tests/sandbox/test_sandbox_session.py"] if tier == "full" else SUITES
    done = subprocess.run(
        [sys.executable, *start, "-q", *suites],
        cwd=ROOT,
        env=dict(os.environ, SANDBOX_TEST_TIER=tier, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = int(done.stdout.split(" passed")[0].rpartition("\n")[2].rpartition(" ")[2])
    if not passed:
        pytest.skip(f"tier {tier} is not to be had here: {done.stdout[-300:]}")
    assert passed > 60


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    tiers = [tier for tier in TIERS if tier != "rlimits"]
    metafunc.parametrize("tier", tiers)
    metafunc.parametrize("user", ["root", "plain user"])
