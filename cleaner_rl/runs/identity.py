"""Identity: a short hash by which tasks are known again; for weights see ``fingerprint``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cleaner_env.tasks import Task


def tasks_digest(tasks: Sequence[Task]) -> str:
    """Of every prompt, answer and reward."""
    digest = hashlib.blake2b(digest_size=8)
    for task in tasks:
        digest.update(f"{task.prompt}\0{task.answer}\0{task.reward}\0".encode("utf-8", "replace"))
    return digest.hexdigest()
