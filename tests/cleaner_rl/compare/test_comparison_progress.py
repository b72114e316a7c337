"""What a running comparison shows."""

import json
from io import StringIO

from rich.console import Console

from cleaner_rl.compare.arms import ARMS
from cleaner_rl.compare.config import parse_compare
from cleaner_rl.compare.directory import ComparisonDirectory
from cleaner_rl.compare.progress import ComparisonProgress


def steps(run, count):
    run.path.mkdir(parents=True, exist_ok=True)
    rows = (json.dumps({"step": step}) + "\n" for step in range(1, count + 1))
    (run.path / "metrics.jsonl").write_text("".join(rows))


def test_the_time_left_is_at_the_pace_of_this_session(tmp_path, monkeypatch):
    config, _ = parse_compare(["--steps", "10"])
    directory = ComparisonDirectory(tmp_path)
    first, second = (directory.run(config, ARMS[name], 0) for name in ("off", "purified"))
    steps(first, 10)
    steps(second, 2)
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    out = StringIO()
    with ComparisonProgress([first, second], Console(file=out)) as progress:
        progress.tick([second])
        clock[0] = 61.0
        progress.tick([second])
        assert "left" not in out.getvalue()
        steps(second, 4)
        clock[0] = 130.0
        progress.tick([second])
    assert "purified, seed 0 step 4/10; 0 of 2 runs done, left 6:30" in out.getvalue()
