"""A training in two processes: the numbers of one, checkpoints for any, and no one left hanging."""

import json
import signal
import time

import pytest
import torch
import trainings
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from cleaner_rl.distributed.ranks import Ranks, partition
from cleaner_rl.runs.evaluations import MODES, read_evaluation

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


def trained_logprobs(run):
    """The log-probabilities of all trained tokens that the steps recorded."""
    files = sorted((run / "episodes").iterdir())
    rows = [
        json.loads(line)["training"] for file in files for line in file.read_text().splitlines()
    ]
    samples = [sample for row in rows for sample in row["samples"]]
    return [value for sample in samples for value in sample["logprobs"] or ()]


def weights(run):
    (checkpoint,) = sorted(run.glob("checkpoints/step-*"))[-1:]
    return load_file(checkpoint / "model.safetensors")


def same(rows, others):
    assert [row.keys() for row in rows] == [row.keys() for row in others]
    for row, other in zip(rows, others, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_two_processes_learn_what_one_learns_and_resume_each_others_runs(train, tmp_path):
    one, mixed = tmp_path / "one", tmp_path / "mixed"
    assert train("one", 1, 3) == [0]
    assert train("mixed", 2, 1) == [0, 0]
    assert train("mixed", 1, 2, resume=True) == [0]
    assert train("mixed", 2, 3, resume=True) == [0, 0]

    assert all(row["grad_norm"] > 0.1 for row in metrics(one))
    same(metrics(mixed), metrics(one))
    recorded = trained_logprobs(one)
    assert recorded and trained_logprobs(mixed) == pytest.approx(recorded, abs=1e-3)
    torch.testing.assert_close(weights(mixed), weights(one), rtol=1e-3, atol=1e-4)


@pytest.mark.exhaustive
@pytest.mark.parametrize("more", [(), ("--lora-rank", "4", "--loss", "grpo")])
def test_any_number_of_ranks_continues_from_any_other_with_a_kl_term(train, tmp_path, more):
    more = ("--kl-coefficient", "0.1", *more)
    assert train("one", 1, 4, more=more) == [0]
    for steps, ranks in enumerate((1, 2, 3, 1), start=1):
        assert train("mixed", ranks, steps, more=more, resume=steps > 1) == [0] * ranks
    same(metrics(tmp_path / "mixed"), metrics(tmp_path / "one"))
    torch.testing.assert_close(
        weights(tmp_path / "mixed"), weights(tmp_path / "one"), rtol=1e-3, atol=1e-4
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "more",
    [
        ("--loss", "grpo", "--kl-coefficient", "0.1", "--gradient-checkpointing"),
        ("--loss", "dr_grpo", "--lora-rank", "4", "--kl-coefficient", "0.1"),
        ("--loss", "gspo", "--dynamic-sampling", "2", "--prompts", "3"),
        ("--saar", "roc", "--minibatch-prompts", "2"),
    ],
)
def test_other_settings_have_the_numbers_of_one_process_too(train, tmp_path, more):
    assert train("one", 1, 2, more=more) == [0]
    assert train("two", 2, 2, more=more) == [0, 0]
    assert all(row["grad_norm"] > 0.01 for row in metrics(tmp_path / "one"))
    same(metrics(tmp_path / "two"), metrics(tmp_path / "one"))


@pytest.mark.parametrize(
    ("scripts", "more"),
    [
        ((), ()),
        pytest.param(("the head is frozen",), (), marks=pytest.mark.slow),
        pytest.param((), ("--lora-rank", "4"), marks=pytest.mark.slow),
    ],
)
def test_a_rank_with_fewer_rows_passes_through_a_head_of_its_own(
    train, tmp_path, model, toy_policy, scripts, more
):
    size = len(toy_policy.tokenizer)
    toy_policy.model = untied(size)
    toy_policy.save(model)
    # Three episodes of a group, each in a row of its own: two rows on one rank, one on the other.
    more = (*more, "--group-size", "3", "--pack-tokens", "8")
    assert train("one", 1, 2, *scripts, more=more) == [0]
    assert train("two", 2, 2, *scripts, more=more) == [0, 0]
    same(metrics(tmp_path / "two"), metrics(tmp_path / "one"))
    torch.testing.assert_close(
        weights(tmp_path / "two"), weights(tmp_path / "one"), rtol=1e-3, atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--lora-rank", "4")])
def test_a_mixture_of_experts_has_the_numbers_of_one_process_too(
    train, tmp_path, model, toy_policy, more
):
    size, experts = len(toy_policy.tokenizer), {"num_experts": 4, "num_experts_per_tok": 2}
    toy_policy.model = untied(size, "qwen3_moe", moe_intermediate_size=16, **experts)
    toy_policy.save(model)
    assert train("one", 1, 2, more=more) == [0]
    assert train("two", 2, 2, more=more) == [0, 0]
    same(metrics(tmp_path / "two"), metrics(tmp_path / "one"))
    torch.testing.assert_close(
        weights(tmp_path / "two"), weights(tmp_path / "one"), rtol=1e-3, atol=1e-4
    )


def untied(vocabulary, kind="qwen2", **more):
    """A model whose head is no other name of its embedding."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        max_position_embeddings=1024,
        initializer_range=0.3,
        tie_word_embeddings=False,
        **more,
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.exhaustive
def test_an_update_that_is_not_finite_on_one_rank_is_skipped_on_all(train, tmp_path):
    more = ["--prompts", "4", "--minibatch-prompts", "2", "--group-size", "4"]
    assert train("one", 1, 1, "token 7 has no numbers", more=more) == [0]
    assert train("two", 2, 1, "token 7 has no numbers", more=more) == [0, 0]
    (row,) = metrics(tmp_path / "one")
    assert row["skipped_updates"] > 0
    same(metrics(tmp_path / "two"), [row])


def log(tmp_path, name, rank):
    return (tmp_path / f"{name}.log{rank}").read_text()


def test_an_error_on_one_rank_ends_all_with_its_message_and_the_state_saved(train, tmp_path):
    assert train("run", 2, 3, "rank 1 fails in step 2", more=["--save-every", "9"]) == [2, 2]
    assert "error: rank 1: the sandbox is gone\nThe run is saved up to step 1. Resume: " in log(
        tmp_path, "run", 0
    )
    assert "sandbox is gone" not in log(tmp_path, "run", 1)  # said once, not by every rank
    assert (tmp_path / "run" / "checkpoints" / "step-000001" / "manifest.json").is_file()


def evaluations(run, step):
    """Problem and texts of each episode; log-probabilities depend on the batch by rounding."""
    rows = [read_evaluation(run, step, mode) for mode in MODES]
    return [[(r["problem"], [t["text"] for t in r["episode"]["turns"]]) for r in m] for m in rows]


@pytest.mark.slow
def test_ranks_play_the_episodes_of_evaluations_that_one_process_plays(train, tmp_path):
    more = ["--eval-tasks", "5", "--eval-every", "1"]
    assert train("one", 1, 1, more=more) == [0]
    assert train("two", 2, 1, more=more) == [0, 0]
    one, two = tmp_path / "one", tmp_path / "two"
    assert evaluations(two, 0) == evaluations(one, 0)
    assert [len(rows) for rows in evaluations(two, 1)] == [5, 5]
    before = [json.loads((run / "evaluation-before.json").read_text()) for run in (one, two)]
    assert [summary["episodes"] for summary in before] == [5, 5]


@pytest.mark.parametrize("script", ["rank 1 fails in evaluations", "rank 1 has no held-out tasks"])
def test_an_error_in_one_ranks_share_of_an_evaluation_ends_all(train, tmp_path, script):
    more = ["--eval-tasks", "2"]
    assert train("run", 2, 1, script, more=more) == [2, 2]
    assert "error: rank 1: the sandbox is gone\nThe run is saved up to step 0." in log(
        tmp_path, "run", 0
    )


def test_a_signal_to_one_rank_stops_all_at_the_same_step(train, tmp_path):
    stopped = train("run", 2, 3, "rank 1 is asked to stop in step 2", more=["--save-every", "9"])
    assert stopped == [130, 130]
    assert "stopped after step 1. The run is saved up to step 1." in log(tmp_path, "run", 0)
    assert (tmp_path / "run" / "checkpoints" / "step-000001" / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("script", "saved"),
    [("rank 1 dies in step 2", 1), ("rank 1 dies in the checkpoint of step 2", 1)],
)
def test_a_rank_that_dies_leaves_none_hanging(script, saved, train, tmp_path):
    began = time.monotonic()
    status = train("run", 2, 3, script)
    assert status == [2, -signal.SIGKILL]
    assert time.monotonic() - began < 60  # and not --rank-timeout, an hour
    assert "error: rank 0 lost another one" in log(tmp_path, "run", 0)
    assert f"saved up to step {saved}. Resume: torchrun" in log(tmp_path, "run", 0)


def test_a_rank_that_dies_at_the_start_is_missed_in_a_sentence(train, tmp_path):
    assert train("run", 2, 1, "rank 1 dies before it loads") == [2, -signal.SIGKILL]
    said = log(tmp_path, "run", 0)
    assert said.splitlines()[-1] == "error: rank 0 lost another one, whose own message says why"
    assert not (tmp_path / "run").exists()


def test_the_command_for_several_machines_names_them(monkeypatch):
    ranks = Ranks("cpu")
    assert ranks.command == "python"
    ranks.size = 16
    assert ranks.command == "torchrun --nproc-per-node 16"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setenv("MASTER_ADDR", "node1")
    machines = "--nnodes 2 --rdzv-backend c10d --rdzv-endpoint node1:29500"
    assert ranks.command == f"torchrun {machines} --nproc-per-node 8"


def test_shares_are_stretches_that_together_are_all():
    ranks = Ranks("cpu")
    assert ranks.share(5) == range(5)
    ranks.size = 3
    shares = []
    for ranks.rank in range(3):
        shares += [ranks.share(7)]
    assert [list(share) for share in shares] == [[0, 1], [2, 3], [4, 5, 6]]


def test_episodes_are_dealt_by_length():
    assert partition([5, 9, 1, 4, 3], 1) == [[0, 1, 2, 3, 4]]
    hands = partition([5, 9, 1, 4, 3], 2)
    assert sorted(i for hand in hands for i in hand) == [0, 1, 2, 3, 4]
    assert [sum([5, 9, 1, 4, 3][i] for i in hand) for hand in hands] == [12, 10]
