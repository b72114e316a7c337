"""Loggers: the metrics of a run sent to where a team looks at them, besides ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from cleaner_rl.errors import UserError

LoggerName = Literal["none", "tensorboard", "wandb"]


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


@contextmanager
def open_logger(name: LoggerName, directory: Path) -> Iterator[MetricLogger]:
    """The logger of that name, closed at the end of the block.

    Args:
        name: ``none``; ``tensorboard``, which writes into ``directory/tensorboard``; ``wandb``.
        directory: of the run; its name is the run's name.

    Raises:
        UserError: the package is not installed.
    """
    if name == "none":
        yield _Silent()
    elif name == "tensorboard":
        writer = _import("torch.utils.tensorboard", name).SummaryWriter(directory / "tensorboard")
        try:
            yield _TensorBoard(writer)
        finally:
            writer.close()
    else:
        run = _import("wandb", name).init(
            project="cleaner-rl", name=directory.name, id=directory.name, resume="allow"
        )
        try:
            yield _WandB(run)
        finally:
            run.finish()


def _import(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(f"--logger {name} needs: pip install 'cleaner-rl[{name}]'") from error
