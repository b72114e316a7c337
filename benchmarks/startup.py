"""Seconds until every command has shown its --help or refused a mistyped flag.

    python benchmarks/startup.py

Each figure is the median of several runs, each in a new interpreter. Beside it stands how much
longer that takes than ``import tyro``, the library that parses the arguments.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from statistics import median

from cleaner_rl.commands import COMMANDS
from cleaner_rl.runs.markdown import table

MISTYPED = "--sed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of each (%(default)s)")
    runs = parser.parse_args().runs
    commands = {f"`{name}`": ["-m", f"cleaner_rl.{name}"] for name in COMMANDS}
    commands |= {"`cleaner-rl`": ["-m", "cleaner_rl"], "`sandbox`": ["-m", "sandbox"]}
    tyro = [seconds(["-c", "import tyro"], 0) for _ in range(runs)]
    rows: list[list[str]] = [["`import tyro`", f"{median(tyro):.2f}", "", "", ""]]
    for name, arguments in commands.items():
        shown, refused = [], []
        for _ in range(runs):  # in turns, so that another load of the machine meets both
            shown.append(seconds([*arguments, "--help"], 0))
            refused.append(seconds([*arguments, MISTYPED], 2))
        more = [f"{median(times) - median(tyro):+.2f}" for times in (shown, refused)]
        rows.append([name, f"{median(shown):.2f}", more[0], f"{median(refused):.2f}", more[1]])
    print(table(("seconds of", "--help", "beside tyro", "mistyped flag", "beside tyro"), rows))


def seconds(arguments: list[str], status: int) -> float:
    """Wall time of an interpreter that has to end with a status."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    took = time.perf_counter() - began
    if done.returncode != status:
        raise SystemExit(f"{arguments} ended with {done.returncode}: {done.stderr}")
    return took


if __name__ == "__main__":
    main()
