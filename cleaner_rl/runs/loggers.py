"""Loggers: send the metrics of a run to TensorBoard or wandb, in addition to ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from cleaner_rl.errors import UserError
from cleaner_rl.settings import LoggerName

LogStep = Callable[[int, Mapping[str, float]], None]
"""Logs the metrics of a step."""


def check_logger(name: LoggerName) -> None:
    """Check that the logger's package is installed, before any work is done."""
    if name != "none":
        _import(name)


@contextmanager
def open_logger(
    name: LoggerName, directory: Path, config: Mapping[str, Any], step: int
) -> Iterator[LogStep]:
    """Open a logger, and close it at the end of the block.

    TensorBoard's files are in ``directory/tensorboard``; the wandb run has the directory's name.
    ``step`` is the last finished step: what was logged of later ones is replaced if possible.
    """
    if name == "none":
        yield lambda step, metrics: None
    elif name == "tensorboard":
        writer = _import(name).SummaryWriter(directory / "tensorboard", purge_step=step + 1)

        def log(step: int, metrics: Mapping[str, float]) -> None:
            for key, value in metrics.items():
                writer.add_scalar(key, value, step)

        with closing(writer):
            yield log
    else:
        run = _wandb_run(directory, config)
        try:
            yield lambda step, metrics: run.log(dict(metrics), step=step)
        finally:
            run.finish()


def _wandb_run(directory: Path, config: Mapping[str, Any]) -> Any:
    """The wandb run of this directory; a resumed run continues it."""
    wandb = _import("wandb")
    identity = directory / "wandb-id"
    if not identity.exists():
        identity.write_text(uuid4().hex, encoding="utf-8")
    try:
        return wandb.init(
            project="cleaner-rl",
            name=directory.name,
            id=identity.read_text(encoding="utf-8"),
            resume="allow",
            config=dict(config),
        )
    except wandb.errors.Error as error:
        raise UserError(f"wandb refuses the run: {error}; log in, or use --logger none") from error


def _import(name: LoggerName) -> Any:
    module = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}[name]
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(f"--logger {name} needs: pip install -e '.[{name}]'") from error
