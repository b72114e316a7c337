"""A training on two hosts, which are network namespaces with names and processes of their own."""

import json
import os
import shlex
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.exhaustive

STEPS = 8
SETTINGS = [
    *("--steps", STEPS, "--prompts", 2, "--minibatch-prompts", 1, "--group-size", 4),
    *("--save-every", 1, "--eval-tasks", 0, "--device", "cpu"),
]


class Host:
    """A host; all its processes die with it, and only later its end of the cable."""

    def __init__(self, name, address, hosts):
        self.name = name
        new = "--net --uts --mount --pid --mount-proc --fork --kill-child".split()
        self._holder = subprocess.Popen(["unshare", *new, "sleep", "600"])
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        while not children.read_text().strip():
            if self._holder.poll() is not None:
                pytest.skip("namespaces are not permitted here")
            time.sleep(0.01)
        self.pid = children.read_text().strip()
        self._network = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        self.run("hostname", name)
        self.run("mount", "--bind", hosts, "/etc/hosts")
        self.run("ip", "link", "set", "lo", "up")
        self.address = address

    def connect(self, device):
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", device)
        self.run("ip", "link", "set", device, "up")

    def start(self, *command, **named):
        inside = ["nsenter", "-t", self.pid, "-n", "-u", "-m", "-p", f"--wd={os.getcwd()}"]
        return subprocess.Popen([*inside, *map(str, command)], **named)

    def run(self, *command):
        assert self.start(*command).wait() == 0

    def die(self):
        self._holder.kill()
        self._holder.wait()

    def leave(self):
        self.die()
        os.close(self._network)


@pytest.fixture
def hosts(tmp_path):
    """Gives two new hosts that reach each other by their names."""
    if os.geteuid() != 0:
        pytest.skip("making hosts needs root")
    names = {"first": "10.77.0.1", "second": "10.77.0.2"}
    file = tmp_path / "hosts"
    lines = [f"{address} {name}\n" for name, address in names.items()]
    file.write_text("127.0.0.1 localhost\n" + "".join(lines))
    with ExitStack() as alive:

        def make():
            pair = [Host(name, address, file) for name, address in names.items()]
            ends = [("name", host.name, "netns", host.pid) for host in pair]
            link = ["ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1]]
            subprocess.run(link, check=True)
            for host in pair:
                alive.callback(host.leave)
                host.connect(host.name)
            return pair

        yield make


class Training:
    """The two halves of a training, as one starts them by hand."""

    def __init__(self, hosts, directory, *arguments):
        self.logs = [directory / f"{host.name}.log" for host in hosts]
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", 2]
        command += ["--nproc-per-node", 1, "--rdzv-backend", "c10d", "--rdzv-id", "test"]
        command += ["--rdzv-endpoint", "first:29500", "-m", "cleaner_rl.train", *arguments]
        self.halves = []
        for host, log in zip(hosts, self.logs, strict=True):
            with log.open("w") as stream:
                self.halves.append(host.start(*command, stdout=stream, stderr=stream))

    def end(self, half):
        """The status of a half, and what it wrote."""
        return self.halves[half].wait(90), self.logs[half].read_text()


def steps(run):
    file = run / "metrics.jsonl"
    return (
        [json.loads(row)["step"] for row in file.read_text().splitlines()] if run.exists() else []
    )


def wait_for_step(run, step, training):
    while not list((run / "checkpoints").glob(f"step-{step:06d}")):
        assert all(half.poll() is None for half in training.halves), training.logs[0].read_text()
        time.sleep(0.01)


def test_a_host_that_dies_ends_the_training_on_the_other_and_both_resume(hosts, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    undisturbed = Training(hosts(), tmp_path, "--run-dir", whole, *SETTINGS)
    assert undisturbed.end(0)[0] == undisturbed.end(1)[0] == 0

    arguments = ["--run-dir", run, *SETTINGS]
    for number, dying in enumerate((1, 0)):
        pair = hosts()
        training = Training(pair, tmp_path, *arguments)
        wait_for_step(run, 2 + 2 * number, training)
        pair[dying].die()
        training.end(dying)
        status, said = training.end(1 - dying)
        assert status != 0
        assert f"error: rank {1 - dying} lost another one, whose own message says why" in said
        again = "torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint first:29500"
        again += f" --nproc-per-node 1 -m cleaner_rl.train --resume {shlex.quote(str(run))}"
        assert f"Resume: {again}" in said
        arguments = ["--resume", run]

    resumed = Training(hosts(), tmp_path, *arguments)
    assert resumed.end(0)[0] == resumed.end(1)[0] == 0
    assert steps(run) == steps(whole) == list(range(1, STEPS + 1))
    weights = f"checkpoints/step-{STEPS:06d}/model.safetensors"
    one, other = load_file(run / weights), load_file(whole / weights)
    assert all(one[name].equal(other[name]) for name in other)
