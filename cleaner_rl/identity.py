"""Identity: short hashes by which a policy and its tasks are known again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cleaner_env.tasks import Task
from cleaner_rl.policy import Policy


def tasks_digest(tasks: Sequence[Task]) -> str:
    """Of every prompt, answer and reward."""
    digest = hashlib.blake2b(digest_size=8)
    for task in tasks:
        digest.update(f"{task.prompt}\0{task.answer}\0{task.reward}\0".encode("utf-8", "replace"))
    return digest.hexdigest()


def weights_digest(policy: Policy) -> str:
    """Of a sample of every parameter: training changes all of them."""
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in policy.model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().flatten()[:256].float().cpu().numpy().tobytes())
    return digest.hexdigest()
