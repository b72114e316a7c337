"""However a training ends, the run continues from its last complete state, with equal results."""

import json
import os
import random
import shlex
import signal
import socket
import time

import pytest
import trainings

from cleaner_rl.runs.lock import reserved

TIMED = {"tokens_per_second", "sample_seconds", "step_seconds"}
STEPS = 4


@pytest.fixture
def train(tmp_path, toy_policy):
    """Begins a training of ``STEPS`` steps in a process of its own."""
    toy_policy.save(tmp_path / "model")

    def train(name, *scripts, resume=False, more=()):
        run = tmp_path / name
        arguments = [*trainings.FEW, "--model", tmp_path / "model", "--run-dir", run, *more]
        (process,) = trainings.start(
            ["--resume", run] if resume else [*arguments, "--steps", STEPS],
            tmp_path / f"{name}.log",
            "reward differs",
            *scripts,
        )
        return process

    return train


def end(process):
    (status,) = trainings.finish([process])
    return status


def metrics(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMED} for line in lines]


def episodes(run):
    return {path.name: path.read_text() for path in (run / "episodes").iterdir()}


def kill_when(process, happened):
    """SIGKILL at the moment; False when the process had ended before."""
    while not happened():
        if not process.is_alive():
            return False
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return True


def check_kills(train, tmp_path, moments):
    """Kill a run at each of the moments, resume it each time, and compare it with a whole one."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert end(train("whole")) == 0
    process, kills = train("killed"), 0
    for happened in moments:
        kills += kill_when(process, lambda happened=happened: happened(killed))
        process = train("killed", resume=True)
    assert end(process) == 0
    check_same(killed, whole)
    return kills


def check_same(killed, whole):
    assert [row["step"] for row in metrics(whole)] == list(range(1, STEPS + 1))
    assert metrics(killed) == metrics(whole)
    assert episodes(killed) == episodes(whole)
    assert not list((killed / "checkpoints").glob(".*"))


def in_checkpoint(step):
    return lambda run: (run / "checkpoints" / f".step-{step:06d}.partial").exists()


def between(step):
    """After the step's metrics are written, before its checkpoint is there."""
    file = f"episodes/step-{step:06d}.jsonl"
    return lambda run: (run / file).exists()


def wait_for_a_checkpoint(process, run):
    """Until there is something to go on from."""
    while not list(run.glob("checkpoints/step-*")):
        assert process.is_alive()
        time.sleep(0.001)


def test_killed_runs_continue_as_if_never_killed(train, tmp_path):
    assert check_kills(train, tmp_path, [in_checkpoint(1), between(3)]) == 2


@pytest.mark.exhaustive
def test_runs_killed_at_random_continue_as_if_never_killed(train, tmp_path):
    draw, kills = random.Random(0), 0
    whole = train("whole")
    wait_for_a_checkpoint(whole, tmp_path / "whole")
    began = time.monotonic()
    assert end(whole) == 0
    seconds = time.monotonic() - began
    for number in range(8):
        run = tmp_path / f"killed-{number}"
        process = train(run.name)
        wait_for_a_checkpoint(process, run)
        moment = time.monotonic() + draw.uniform(0, seconds)
        if kill_when(process, lambda moment=moment: time.monotonic() > moment):
            kills += 1
            process = train(run.name, resume=True)
        assert end(process) == 0
        check_same(run, tmp_path / "whole")
    assert kills > 3


def test_a_run_that_another_process_writes_is_left_alone(train, tmp_path):
    run = tmp_path / "run"
    assert end(train("run")) == 0
    before = (run / "metrics.jsonl").read_bytes()
    with reserved(run):
        assert end(train("run", resume=True)) == 2
    said = (tmp_path / "run.log0").read_text()
    assert f"{run} is being written by process {os.getpid()} on {socket.gethostname()}, " in said
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(train, tmp_path):
    run = tmp_path / "a run"
    assert end(train("a run", "the disk is full from step 2")) == 2
    said = (tmp_path / "a run.log0").read_text()
    assert "error: cannot write the checkpoint" in said and "the disk or a quota is full" in said
    command = ["python", "-m", "cleaner_rl.train", "--resume", str(run)]
    assert shlex.split(said.split("The run is saved up to step 1. Resume: ")[1]) == command
    assert [p.name for p in (run / "checkpoints").iterdir() if p.name.startswith(".")] == []
    assert end(train("a run", resume=True)) == 0
    assert [row["step"] for row in metrics(run)] == list(range(1, STEPS + 1))


@pytest.mark.parametrize(
    ("script", "part"),
    [
        ("no memory in step 2", "out of memory on cpu while learning: lower --pack-tokens"),
        ("the sandbox fails in step 2", "the sandbox is gone"),
    ],
)
def test_what_stops_a_run_is_reported_and_the_state_saved(train, tmp_path, script, part):
    assert end(train("run", script, more=["--save-every", "100"])) == 2
    said = (tmp_path / "run.log0").read_text()
    assert f"error: {part}" in said and "The run is saved up to step 1. Resume: python" in said
    assert (tmp_path / "run" / "checkpoints" / "step-000001").is_dir()


def test_a_run_that_is_to_stop_at_a_sign_saves_its_state(train, tmp_path):
    assert end(train("run", "a sign takes two steps", more=["--stop-when", "no-answers"])) == 2
    said = (tmp_path / "run.log0").read_text()
    assert "error: for 2 steps, no episode ended with an answer" in said
    assert "The run is saved up to step 2. Resume: python" in said


def test_a_run_that_was_killed_before_its_first_checkpoint_says_so(train, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert end(train("run")) == 2
    assert "ended before its first checkpoint" in (tmp_path / "run.log0").read_text()
