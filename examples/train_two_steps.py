"""Train the bundled policy for two steps and print what was logged."""

import json
import sys
import tempfile
from pathlib import Path

from cleaner_rl.train import main as train


def main(run_dir: Path) -> list[dict[str, float]]:
    """Run a two-step training into ``run_dir`` and return its metrics."""
    status = train(
        [
            *("--run-dir", str(run_dir)),
            *("--steps", "2", "--prompts", "4", "--minibatch-prompts", "4"),
            *("--group-size", "4", "--eval-tasks", "12"),
        ]
    )
    if status != 0:
        sys.exit(status)
    rows = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(row) for row in rows]
    for row in metrics:
        print({key: round(row[key], 3) for key in ("step", "reward", "failed_calls", "loss")})
    return metrics


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(Path(directory) / "run")
