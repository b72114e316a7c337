"""Kill a worker as the kernel or an administrator would."""

from __future__ import annotations

import time
from pathlib import Path

from sandbox.soak import descendants
from sandbox.worker import Worker


def kill_worker(worker: Worker) -> None:
    """Kill a worker's process, and wait until all that die with it are dead, a little later."""
    assert worker.process
    doomed = descendants(worker.process.pid)
    worker.process.kill()
    worker.process.wait()
    while any(map(is_running, doomed)):
        time.sleep(0.001)


def is_running(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
