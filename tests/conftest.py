"""What the tests of all packages share: a sandbox."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cleaner_env import Sandbox


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """One sandbox for the whole session."""
    with Sandbox(workers=1) as shared:
        yield shared
