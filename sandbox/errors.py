"""Exceptions of the sandbox.

SandboxError            our own machinery failed; never the fault of the program that was run
  IsolationUnavailable  this machine grants no isolation, and weak isolation was not allowed
  QueueFull             too many callers wait already; the program was not run
  Irreproducible        a session was lost, and its cells do not do the same again
  WorkerFault           one worker broke; caught and retried by the pool, not seen by callers
"""

from __future__ import annotations


class SandboxError(RuntimeError):
    """The sandbox itself failed. Says nothing about the program that was to be run."""


class IsolationUnavailable(SandboxError):
    """No isolation is to be had. The message lists what was tried, why it failed, the remedy."""


class QueueFull(SandboxError):
    """More callers wait than the sandbox was told to let in. The program was not run."""


class Irreproducible(SandboxError):
    """A session was lost, and a cell that was run again did not print the same."""


class WorkerFault(SandboxError):
    """One worker died, hung or broke the protocol. A fresh worker may well succeed."""
