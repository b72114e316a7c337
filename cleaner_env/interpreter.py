"""The sandbox as users of the environment reach it; packages above import it from here."""

from sandbox import Limits, Sandbox, SandboxError

__all__ = ["Limits", "Sandbox", "SandboxError"]
