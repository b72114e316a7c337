"""Print how many packages an environment holds, and their MB on disk.

    .venv/bin/python benchmarks/install_size.py

pip and setuptools are left out. This project is not counted as a package, but its size is included.
"""

import sysconfig
from importlib.metadata import distributions
from pathlib import Path

NOT_COUNTED = {"cleaner-rl", "pip", "setuptools"}
NOT_MEASURED = ("pip", "setuptools", "pkg_resources", "_distutils_hack")


def main() -> None:
    names = {distribution.metadata["Name"].lower() for distribution in distributions()}
    site = Path(sysconfig.get_path("purelib"))
    blocks = sum(
        path.lstat().st_blocks
        for path in site.rglob("*")
        if not path.relative_to(site).parts[0].startswith(NOT_MEASURED)
    )
    print(f"{len(names - NOT_COUNTED)} packages, {blocks * 512 / 2**20:.0f} MB")


if __name__ == "__main__":
    main()
