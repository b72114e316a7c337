"""What the tests of all packages share: a sandbox."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cleaner_env import Sandbox, SandboxError


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """One sandbox for the whole session."""
    try:
        shared = Sandbox(workers=1)
    except SandboxError as error:
        pytest.skip(f"no sandbox on this machine: {error}")
    with shared:
        yield shared
