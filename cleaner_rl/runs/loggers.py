"""Loggers: the metrics of a run sent to where a team looks at them, besides ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from cleaner_rl.errors import UserError
from cleaner_rl.settings import LoggerName


class MetricLogger(Protocol):
    """Takes one step's metrics."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...


class _Silent:
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        pass


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)


class _WandB:
    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=step)


def check_logger(name: LoggerName) -> None:
    """Check that the logger's package is there, before any work is done.

    Raises:
        UserError: it is not installed.
    """
    if name != "none":
        _import(name)


@contextmanager
def open_logger(
    name: LoggerName, directory: Path, config: Mapping[str, Any], step: int
) -> Iterator[MetricLogger]:
    """The logger of that name, closed at the end of the block.

    Args:
        name: ``none``; ``tensorboard``, which writes into ``directory/tensorboard``; ``wandb``.
        directory: of the run; its name is the run's name.
        config: the run's settings.
        step: the last step done; what was sent of later ones is replaced where that is possible.

    Raises:
        UserError: the package is not installed, or the service refuses the run.
    """
    if name == "none":
        yield _Silent()
    elif name == "tensorboard":
        module = _import(name)
        writer = module.SummaryWriter(directory / "tensorboard", purge_step=step + 1)
        try:
            yield _TensorBoard(writer)
        finally:
            writer.close()
    else:
        run = _wandb_run(directory, config)
        try:
            yield _WandB(run)
        finally:
            run.finish()


def _wandb_run(directory: Path, config: Mapping[str, Any]) -> Any:
    """The service's run of this directory, the same one after a resumption."""
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
        raise UserError(f"--logger {name} needs: pip install 'cleaner-rl[{name}]'") from error
