"""Commands: their list, and the one way in which they all start. Imports nothing that is slow."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

from cleaner_rl.errors import UserError, run_command

COMMANDS = {
    "train": ("train a model by reinforcement learning with SAAR", "config", "train"),
    "eval": ("evaluate a model on held-out tasks", "eval.config", "eval.__main__"),
    "doctor": ("say what would go wrong in a training", "doctor.config", "doctor.__main__"),
    "compare": ("train in several ways, side by side", "compare.config", "compare.__main__"),
    "sft": ("teach a model the tool by demonstrations", "sft.config", "sft.__main__"),
    "export": ("make a Hugging Face directory of a checkpoint", "config", "export"),
    "scaling": ("estimate memory and traffic on many GPUs", "config", "scaling"),
}
"""What each command does, the module with its ``parse_NAME``, and the one with its ``main``.

The first is imported in a moment, the second takes seconds.
"""

_EXTRA = ("torch", "transformers", "tyro", "rich", "matplotlib", "safetensors", "httpx2")
"""What the commands import of the extra ``train``."""


def main() -> NoReturn:
    """``cleaner-rl`` and ``python -m cleaner_rl``: list the commands, or run one of them."""
    prog = "python -m cleaner_rl" if sys.argv[0].endswith("__main__.py") else "cleaner-rl"
    name, *arguments = sys.argv[1:] or ["--help"]
    run_command(lambda: _dispatch(prog, name, arguments))


def _dispatch(prog: str, name: str, arguments: Sequence[str]) -> int:
    if name in COMMANDS:
        return run(name, arguments, f"{prog} {name}")
    if name not in ("-h", "--help"):
        near = get_close_matches(name, COMMANDS, 1)
        remedy = f"did you mean {near[0]!r}?" if near else f"see {prog} --help"
        raise UserError(f"there is no command {name!r}; {remedy}")
    lines = [f"  {command:<9}{summary}" for command, (summary, *_) in COMMANDS.items()]
    print(f"usage: {prog} COMMAND [OPTIONS]", "", *lines, "", sep="\n")
    print(f"{prog} COMMAND --help shows the options of a command.")
    return 0


def start(name: str) -> NoReturn:
    """``python -m cleaner_rl.NAME``: run that command."""
    run_command(lambda: run(name, sys.argv[1:], f"python -m cleaner_rl.{name}"))


def run(name: str, arguments: Sequence[str], prog: str) -> int:
    """Check the arguments, then import what takes seconds and run the command."""
    _, settings, module = COMMANDS[name]
    try:
        getattr(import_module(f"cleaner_rl.{settings}"), f"parse_{name}")(arguments, prog)
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
            print("loading torch and transformers ...", file=sys.stderr, flush=True)
        gc.disable()  # it would take a quarter of the time, and find little in what imports leave
        command = import_module(f"cleaner_rl.{module}")
        gc.freeze()  # nor does it look through that at the end, for a second
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise UserError(
            f"{prog} needs the training extra ({error.name} is missing): pip install -e '.[train]'"
        ) from error
    finally:
        gc.enable()
    status: int = command.main(arguments)
    return status
