"""A training in two processes: the numbers of one, checkpoints for any, and no one left hanging."""

import json

import pytest
import torch
import trainings
from safetensors.torch import load_file

from cleaner_rl import export
from cleaner_rl.errors import PolicyError
from cleaner_rl.policy import load_policy

TIMED = {"tokens_per_second", "sample_seconds", "step_seconds", "sandbox_faults"}


@pytest.fixture
def model(tmp_path, toy_policy):
    toy_policy.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def train(tmp_path, model):
    """Trains in so many processes; gives their exit statuses."""

    def train(name, ranks, steps, *scripts, more=(), resume=False):
        run = tmp_path / name
        arguments = ["--resume", run] if resume else ["--run-dir", run, "--model", model]
        arguments += [] if resume else [*trainings.FEW, "--learning-rate", "1e-2", *more]
        processes = trainings.start(
            [*arguments, "--steps", steps],
            tmp_path / f"{name}.log",
            "episodes by seed",
            *scripts,
            ranks=ranks,
        )
        return trainings.finish(processes)

    return train


def metrics(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMED} for line in lines]


def weights(run, out):
    export.main([str(run), "--out", str(out)])
    return load_file(out / "model.safetensors")


def same(rows, others):
    assert [row.keys() for row in rows] == [row.keys() for row in others]
    for row, other in zip(rows, others, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_and_resume_each_others_runs(train, tmp_path):
    assert train("one", 1, 3) == [0]
    assert train("two", 2, 2) == [0, 0]
    same(metrics(tmp_path / "two"), metrics(tmp_path / "one")[:2])
    assert all(row["grad_norm"] > 0.1 for row in metrics(tmp_path / "two"))

    checkpoint = tmp_path / "two" / "checkpoints" / "step-000002"
    assert not (checkpoint / "model.safetensors").exists()
    with pytest.raises(PolicyError, match=r"python -m cleaner_rl\.export .*two"):
        load_policy(str(checkpoint), "cpu")

    # From two to one, and from one to two.
    assert train("two", 1, 3, resume=True) == [0]
    same(metrics(tmp_path / "two"), metrics(tmp_path / "one"))
    torch.testing.assert_close(
        weights(tmp_path / "two", tmp_path / "b"),
        weights(tmp_path / "one", tmp_path / "a"),
        rtol=1e-3,
        atol=1e-4,
    )
    assert train("two", 2, 4, resume=True) == train("one", 2, 4, resume=True) == [0, 0]
    same(metrics(tmp_path / "two"), metrics(tmp_path / "one"))
