"""Versions: what a result was made with, for its summary."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("cleaner-rl", "torch", "transformers", "gymnasium", "reasoning-gym", "numpy")


def made_with() -> dict[str, str]:
    """Versions of Python and the packages that results depend on, and the kind of machine."""
    return {
        "python": platform.python_version(),
        **{package: package_version(package) for package in _PACKAGES},
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, {platform.system()}",
    }


def package_version(package: str) -> str:
    """The installed version of a package; says so when there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
