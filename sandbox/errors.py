"""Exceptions of the sandbox.

SandboxError            our own machinery failed; never the fault of the program that was run
  IsolationUnavailable  this machine offers no isolation, and running without was not allowed
  QueueFull             too many callers wait already; the program was not run
  Irreproducible        a session was lost, and its cells do not do the same again
  WorkerFault           one worker broke; caught and retried by the pool, not seen by callers
"""

from __future__ import annotations


class SandboxError(RuntimeError):
    """The sandbox itself failed, which says nothing about the program."""


class IsolationUnavailable(SandboxError):
    """This machine offers no isolation. The message lists what was tried, and what would help."""


class QueueFull(SandboxError):
    """More callers wait than max_waiting allows. The program was not run."""


class Irreproducible(SandboxError):
    """A session was lost, and a cell that was run again did not print the same."""


class WorkerFault(SandboxError):
    """One worker died, hung or broke the protocol. A fresh worker may well succeed."""
