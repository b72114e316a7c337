"""Commands: their list, and the one way in which they all start. Imports nothing that is slow."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

from cleaner_rl.errors import UserError, run_command

COMMANDS = {
    "train": ("train a model by reinforcement learning with SAAR", "config", "train"),
    "eval": ("evaluate a model on held-out tasks", "eval.config", "eval.__main__"),
    "doctor": ("find what would go wrong in a training", "doctor.config", "doctor.__main__"),
    "compare": (
        "train in several ways and report the differences",
        "compare.config",
        "compare.__main__",
    ),
    "view": ("show rollbacks, tokens and credit on a page", "view.config", "view.__main__"),
    "sft": ("teach a model the tool by demonstrations", "sft.config", "sft.__main__"),
    "export": ("turn a checkpoint into a Hugging Face directory", "config", "export"),
    "scaling": ("estimate memory and traffic on many GPUs", "config", "scaling"),
}
"""What each command does, the module with its ``parse_NAME``, and the one with its ``main``.

The first module is imported in a moment; the second takes seconds.
"""

_LAUNCHERS = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpiexec",
}
"""The variable in which a launcher that does not join its processes gives their number."""

_EXTRA = ("torch", "transformers", "tyro", "rich", "matplotlib", "safetensors", "httpx2")
"""Packages of the extra ``train`` that the commands import."""


def main() -> NoReturn:
    """``cleaner-rl`` and ``python -m cleaner_rl``: list the commands, or run one of them."""
    prog = "python -m cleaner_rl" if sys.argv[0].endswith("__main__.py") else "cleaner-rl"
    name, *arguments = sys.argv[1:] or ["--help"]
    run_command(lambda: _dispatch(prog, name, arguments))


def _dispatch(prog: str, name: str, arguments: Sequence[str]) -> int:
    if name in COMMANDS:
        return run(name, arguments, f"{prog} {name}")
    if name not in ("-h", "--help", "help"):
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
    """Check the arguments, then import what takes seconds, then run the command."""
    _, settings, module = COMMANDS[name]
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    try:
        getattr(import_module(f"cleaner_rl.{settings}"), f"parse_{name}")(arguments, prog)
        _require_one_training(name)
        # Only one of several processes speaks, and the viewer needs neither.
        if os.environ.get("RANK", "0") == "0" and name != "view":
            print("loading torch and transformers ...", file=sys.stderr, flush=True)
        gc.disable()  # it takes a quarter of the time and finds little garbage in imports
        command = import_module(f"cleaner_rl.{module}")
        gc.freeze()  # saves a second at the end, when all that was imported would be searched
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise UserError(
            f"{prog} needs the training extra ({error.name} is missing): pip install -e '.[train]'"
        ) from error
    finally:
        gc.enable()
        signal.signal(signal.SIGINT, before)
    status: int = command.main(arguments)
    return status


def _require_one_training(name: str) -> None:
    """Check that the processes of a launcher do not all do the same work on their own."""
    joined = os.environ.get("WORLD_SIZE", "")
    if name != "train" and int(joined or 1) > 1:
        raise UserError(f"only train runs in several processes; start {name} without torchrun")
    for variable, launcher in () if joined else _LAUNCHERS.items():
        if (count := os.environ.get(variable, "1")) != "1":
            raise UserError(
                f"{launcher} started {count} processes that do not know each other; let it start "
                "one torchrun on each machine, which starts the processes (docs/scaling.md), or "
                f"set WORLD_SIZE=1 if {count} independent ones are wanted"
            )


def _leave(*_: object) -> NoReturn:
    """End at once, as an import may turn a ``KeyboardInterrupt`` into an error of its own."""
    os.write(2, b"interrupted\n")
    os._exit(130)
