"""Sandboxes to share: a strong one for most tests, and a weak one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox import IsolationUnavailable, Limits, Sandbox

QUICK = Limits(wall_s=10.0, cpu_s=10.0)


@pytest.fixture(scope="session")
def box() -> Iterator[Sandbox]:
    try:
        sandbox = Sandbox(limits=QUICK)
    except IsolationUnavailable as error:
        pytest.skip(str(error))
    with sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
def serves_afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a program did to it, the same worker runs the next one."""
    yield
    if "box" in request.fixturenames:
        sandbox = request.getfixturevalue("box")
        assert sandbox.run("print('alive')").stdout == "alive\n"
        assert sandbox.faults == 0
