"""Weights that a run still refers to are recognised, and changed ones are refused."""

import copy

import pytest
import torch

from cleaner_rl.errors import CheckpointError
from cleaner_rl.runs.provenance import weights_fingerprint
from cleaner_rl.train import main


def test_equal_weights_have_one_fingerprint(toy_policy):
    other = copy.deepcopy(toy_policy.model)
    assert weights_fingerprint(other) == weights_fingerprint(toy_policy.model)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
def test_a_changed_parameter_changes_the_fingerprint(toy_policy, name):
    other = copy.deepcopy(toy_policy.model)
    with torch.no_grad():
        dict(other.named_parameters())[name].mul_(1.0001)
    assert weights_fingerprint(other) != weights_fingerprint(toy_policy.model)


def test_a_reference_that_has_changed_is_refused(tmp_path, toy_policy):
    toy_policy.save(tmp_path / "model")
    run = tmp_path / "run"
    arguments = [
        *("--model", str(tmp_path / "model"), "--system-prompt", "none", "--steps", "1"),
        *("--prompts", "1", "--minibatch-prompts", "1", "--group-size", "2", "--eval-tasks", "0"),
        *("--max-turn-tokens", "4", "--max-response-tokens", "8", "--kl-coefficient", "0.1"),
    ]
    assert main(["--run-dir", str(run), *arguments]) == 0
    with torch.no_grad():
        toy_policy.model.model.norm.weight.mul_(1.5)
    toy_policy.save(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"model'.*--kl-coefficient\), has changed since"):
        main(["--resume", str(run), "--steps", "2"])
