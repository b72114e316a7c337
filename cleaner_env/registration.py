"""Registration of the environment with Gymnasium."""

from __future__ import annotations

ENV_ID = "CleanerCodeTool-v0"


def register_envs() -> None:
    """Make ``gym.make("CleanerCodeTool-v0")`` work. May be called repeatedly."""
    from gymnasium.envs import registration

    if ENV_ID not in registration.registry:
        registration.register(ENV_ID, entry_point="cleaner_env.env:CodeToolEnv")
