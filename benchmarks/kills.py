"""Trainings that are killed again and again, compared with one that is left alone.

    python benchmarks/kills.py --kills 50
    python benchmarks/kills.py --kills 50 --processes 2

A short training of the bundled policy is killed with SIGKILL after a random time, resumed, killed
again, and so on; when it has ended, another one begins, until there were enough kills. With several
processes, the victim is torchrun, one of its ranks, or all of them. The program ends with an error
if a step is lost or there twice, if anything differs from the training that was left alone
(numbers, episodes, evaluations, weights, moments), or if a process is left hanging.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from cleaner_rl.runs.checkpoint import verify_checkpoint

STEPS = 6
ARGUMENTS = (
    *("--steps", str(STEPS), "--prompts", "2", "--minibatch-prompts", "1", "--group-size", "4"),
    *("--save-every", "1", "--eval-tasks", "2", "--eval-every", "3", "--device", "cpu"),
    *("--code-seconds", "30"),  # a busy machine must not decide which programs end in time
)
TIMES = {"seconds", "wall_seconds", "tokens_per_second", "sample_seconds", "step_seconds"}
PATIENCE = 120.0
"""Seconds within which all processes have to end after one was killed."""


class Fault(Exception):
    """What must not happen."""


class Training:
    """A run in its directory, and the processes that write it."""

    def __init__(self, path: Path, processes: int) -> None:
        self.path = path
        self.log = path.with_name(f"{path.name}.log")
        self._launcher = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
        ]
        if processes == 1:
            self._launcher = []
        self._main: psutil.Popen

    def begin(self) -> None:
        """Start the run or continue it; without a checkpoint, there is nothing to continue."""
        arguments = ["--resume", str(self.path)]
        if not self.checkpoints():
            shutil.rmtree(self.path, ignore_errors=True)
            arguments = ["--run-dir", str(self.path), *ARGUMENTS]
        command = [sys.executable, *self._launcher, "-m", "cleaner_rl.train", *arguments]
        with self.log.open("a") as log:
            print(*command, file=log, flush=True)
            self._main = psutil.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def checkpoints(self) -> list[Path]:
        return sorted((self.path / "checkpoints").glob("step-*"))

    def ends(self, seconds: float | None = None) -> bool:
        """Whether it ends in this time, as it should."""
        try:
            status = self._main.wait(seconds)
        except psutil.TimeoutExpired:
            return False
        if status != 0:
            raise Fault(f"a training ended with status {status}")
        return True

    def kill(self, draw: random.Random) -> str:
        """Kill something of the run, and wait until nothing of it is left; the victim's name."""
        others, ranks = [], []
        with suppress(psutil.NoSuchProcess):  # one that ends while it is looked at
            others = self._main.children(recursive=True)
            ranks = [p for p in self._main.children() if "cleaner_rl.train" in p.cmdline()]
        victims = {"training": [self._main]}
        if self._launcher and ranks:
            victims = {"torchrun": [self._main], "all": [self._main, *ranks]}
            victims |= {f"rank {number}": [rank] for number, rank in enumerate(ranks)}
        name = draw.choice(list(victims))
        _kill(victims[name])
        if name == "torchrun":  # its ranks do not notice it and train to the end
            time.sleep(draw.uniform(0.0, 1.0))
            _kill(ranks)
        _, left = psutil.wait_procs([self._main, *others], PATIENCE)
        if left := [process for process in left if _lives(process)]:
            raise Fault(f"the {name} was killed {PATIENCE:.0f} s ago, and {left} is still there")
        return name

    def promised(self) -> list[str]:
        """The rows of the steps up to the newest checkpoint, as they are in the file."""
        if not self.checkpoints():
            return []
        newest = self.checkpoints()[-1]
        verify_checkpoint(newest)
        steps = int(newest.name.removeprefix("step-"))
        rows = (self.path / "metrics.jsonl").read_text().splitlines()[:steps] if steps else []
        if [json.loads(row)["step"] for row in rows] != list(range(1, steps + 1)):
            raise Fault(f"{newest} is there, and metrics.jsonl is not up to it")
        return rows

    def results(self) -> dict[str, Any]:
        """What it leaves behind, file by file, without times."""
        found: dict[str, Any] = {}
        for file in sorted(self.path.rglob("*")):
            if file.name.endswith((".partial", ".replaced", ".lock")):
                raise Fault(f"{file} was left behind")
            if file.name in ("config.json", "manifest.json"):
                continue  # they hold the run's own path, or the length of a file that does
            if file.suffix in (".safetensors", ".distcp"):
                found[str(file.relative_to(self.path))] = file.read_bytes()
            elif file.suffix in (".json", ".jsonl", ".gz"):
                found[str(file.relative_to(self.path))] = _without_times(_read(file))
        return found


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _read(file: Path) -> Any:
    text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return json.loads(text) if file.suffix == ".json" else [*map(json.loads, text.splitlines())]


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in TIMES}
    return [*map(_without_times, value)] if isinstance(value, list) else value


def check(training: Training, alone: dict[str, Any]) -> None:
    """Compare what a training left behind with what the one that was left alone did."""
    found = training.results()
    steps = [row["step"] for row in found["metrics.jsonl"]]
    if steps != list(range(1, STEPS + 1)):
        raise Fault(f"metrics.jsonl has the steps {steps}")
    if other := sorted(found.keys() ^ alone.keys()):
        raise Fault(f"only one of killed and undisturbed training has {other}")
    if differing := [name for name in found if found[name] != alone[name]]:
        raise Fault(f"the killed training differs in {differing}")


def torment(directory: Path, kills: int, processes: int, draw: random.Random) -> None:
    alone = Training(directory / "alone", processes)
    began = time.monotonic()
    alone.begin()
    alone.ends()
    seconds, expected = time.monotonic() - began, alone.results()
    check(alone, expected)
    print(f"undisturbed: {STEPS} steps in {seconds:.0f} s", flush=True)
    victims, reached, runs = Counter[str](), Counter[int](), 0
    while victims.total() < kills:
        training = Training(directory / f"killed-{runs}", processes)
        before: list[str] = []
        started = time.monotonic()
        training.begin()
        while victims.total() < kills and not training.ends(draw.uniform(0, seconds)):
            victim = training.kill(draw)
            victims[victim] += 1
            after = training.promised()
            reached[len(after)] += 1
            print(f"kill {victims.total()}: {victim}, at step {len(after)}", flush=True)
            if after[: len(before)] != before:
                raise Fault(f"of the rows of {len(before)} saved steps, some are gone or changed")
            before = after
            training.begin()
        training.ends()
        check(training, expected)
        seconds = min(seconds, time.monotonic() - started)  # the machine may have become faster
        runs += 1
        print(f"run {runs}: the same as the undisturbed one", flush=True)
    print(f"{victims.total()} kills ({_counts(victims)}) in {time.monotonic() - began:.0f} s")
    print(f"by the last saved step: {_counts(reached)}")
    print(f"{runs} runs: no step lost, none twice, all files equal to those of the undisturbed run")


def _counts(counter: Counter[Any]) -> str:
    return ", ".join(f"{name}: {counter[name]}" for name in sorted(counter))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="kills in all (%(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="ranks of a run (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (%(default)s)")
    args = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        torment(directory, args.kills, args.processes, random.Random(args.seed))
    except Fault as fault:
        raise SystemExit(f"FAULT: {fault}; runs and logs are in {directory}") from None
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
