"""Errors that the user can fix. Commands print them as one line and exit with status 2."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn


class UserError(Exception):
    """Says what was wrong, where, and what to do about it."""


class PolicyError(UserError):
    """The model cannot be loaded, or cannot be used for multi-turn tool use."""


class CheckpointError(UserError):
    """A run directory or a checkpoint cannot be read or written."""


class OutageError(UserError):
    """The sandbox failed so often that results would no longer measure the policy."""


class MemoryLimitError(UserError):
    """A device or the machine ran out of memory."""


class RankError(UserError):
    """Another process of the training failed; the message is that process's."""


class EndpointError(UserError):
    """The server with the model cannot be used, or stopped answering."""


class ToolFormatWarning(UserWarning):
    """The model may write tool calls in a format that is not read."""


def run_command(main: Callable[[], int]) -> NoReturn:
    """Exit with the status of a command's ``main``; 2 after a ``UserError``, 130 after Ctrl-C."""
    warnings.formatwarning = _format_warning
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except BrokenPipeError:  # the reader has gone, as after ``--help | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


_PLAIN_FORMAT = warnings.formatwarning


def _format_warning(message: Warning | str, category: type[Warning], *at: Any, **named: Any) -> str:
    """Format a warning meant for the user without its place in our code."""
    if issubclass(category, ToolFormatWarning):
        return f"warning: {message}\n"
    return _PLAIN_FORMAT(message, category, *at, **named)
