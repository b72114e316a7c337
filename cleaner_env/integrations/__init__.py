"""The environment and SAAR inside the trainers of others: a module and an extra for each."""

from __future__ import annotations

from functools import lru_cache

from cleaner_env.interpreter import Limits, Sandbox


@lru_cache
def shared_sandbox(
    workers: int = 8, code_seconds: float = 4.0, allow_weak: bool = False
) -> Sandbox:
    """The sandbox of all episodes in this process, for frameworks that begin each by itself."""
    limits = Limits(wall_s=code_seconds, cpu_s=code_seconds)
    return Sandbox(workers, limits, allow_weak=allow_weak)
