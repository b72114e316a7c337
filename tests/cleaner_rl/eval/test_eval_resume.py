"""An evaluation that stops early loses nothing, and continues where it stopped."""

import json
import os
import signal
from importlib.metadata import version

import pytest
import torch

from cleaner_rl.errors import CheckpointError, UserError
from cleaner_rl.eval.__main__ import main
from cleaner_rl.eval.journal import EvalJournal
from cleaner_rl.inference.sampler import Sampler
from cleaner_rl.runs.files import read_rows


@pytest.fixture
def model(toy_policy, tmp_path):
    toy_policy.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def begin(model, tmp_path):
    """Begins an evaluation; returns its status."""

    def run(*more):
        return main(
            [
                *("--model", str(model), "--num-tasks", "4", "--samples", "2"),
                *("--max-turn-tokens", "6", "--system-prompt", "none", "--sample-batch", "3"),
                *("--out", str(tmp_path / "out"), *more),
            ]
        )

    return run


@pytest.fixture
def interrupt(monkeypatch):
    """Makes the sampler's n-th step raise a signal, as Ctrl-C does. Turns have six tokens here."""

    def at(step, number=signal.SIGINT):
        advance, steps = Sampler.advance, []

        def interrupted(self):
            steps.append(True)
            if len(steps) == step:
                os.kill(os.getpid(), number)
            return advance(self)

        monkeypatch.setattr(Sampler, "advance", interrupted)
        monkeypatch.setattr("cleaner_rl.eval.__main__.check_agreement", lambda *_, **__: None)

    return at


def rows(out):
    return list(read_rows(out / "episodes.jsonl"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_played_before_an_interruption_stays(begin, interrupt, tmp_path, number, capsys):
    interrupt(10, number)
    assert begin() == 130
    before = rows(tmp_path / "out")
    assert len(before) == 3
    assert (
        f"3 of 8 episodes are saved. Continue: python -m cleaner_rl.eval --resume {tmp_path}"
        in (capsys.readouterr().err)
    )
    assert main(["--resume", str(tmp_path / "out")]) == 0
    after = rows(tmp_path / "out")
    assert after[:3] == before
    assert sorted(row["index"] for row in after) == list(range(8))
    assert {row["session"] for row in after} == {1, 2}


def test_without_an_interruption_nothing_depends_on_the_journal(begin, tmp_path):
    """Both ways of calling give the same episodes: the directory is a record, not an influence."""
    begin()
    saved = {row["index"]: row["episode"] for row in rows(tmp_path / "out")}
    for turn in (turn for episode in saved.values() for turn in episode["raw_turns"]):
        assert turn["token_ids"]
    os.rename(tmp_path / "out", tmp_path / "first")
    begin()
    assert {row["index"]: row["episode"] for row in rows(tmp_path / "out")} == saved


def test_turns_of_unfinished_episodes_are_continued(model, tmp_path):
    """A turn that was sampled before the interruption is in the finished episode."""
    out = tmp_path / "out"
    assert main(
        [
            *("--model", str(model), "--num-tasks", "1", "--max-turn-tokens", "6"),
            *("--system-prompt", "none", "--out", str(out)),
        ]
    ) == 0  # fmt: skip
    (row,) = rows(out)
    (turn,) = row["episode"]["raw_turns"]
    # The episode's row is lost, its turn is not: as a kill between the two would leave it.
    (out / "episodes.jsonl").unlink()
    ids = turn["token_ids"]
    journal = {"mode": "off", "index": 0, "text": turn["text"], "truncated": True, "ids": ids}
    journal |= {"logprobs": [-1.0] * len(ids), "stop_length": 0}
    (out / "turns.jsonl").write_text(json.dumps(journal) + "\n")
    assert main(["--resume", str(out)]) == 0
    assert rows(out)[0]["episode"]["raw_turns"][0]["token_ids"] == ids
    assert len(rows(out)[0]["episode"]["raw_turns"]) == 1


def test_the_turns_go_when_the_evaluation_is_complete(begin, interrupt, tmp_path):
    interrupt(10)
    begin()
    assert (tmp_path / "out" / "turns.jsonl").exists()
    main(["--resume", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "turns.jsonl").exists()


def test_the_summary_is_computed_again_from_the_episodes(begin, tmp_path):
    begin("--rollback", "both")
    file = tmp_path / "out" / "summary.json"
    written = json.loads(file.read_text())
    file.unlink()
    assert main(["--resume", str(tmp_path / "out")]) == 0
    assert json.loads(file.read_text()) == written
    assert written["complete"] and written["made_with"]["torch"] == version("torch")


def test_a_complete_evaluation_needs_no_model_to_be_shown_again(begin, model, tmp_path, capsys):
    begin()
    table = capsys.readouterr().out
    os.rename(model, tmp_path / "gone")
    assert main(["--resume", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == table


def test_changed_settings_are_refused(begin, tmp_path):
    begin()
    with pytest.raises(UserError, match=r"leave out: --samples, --temperature"):
        main(["--resume", str(tmp_path / "out"), "--samples", "3", "--temperature", "0.5"])


def test_settings_that_change_no_result_may_change(begin, interrupt, tmp_path):
    interrupt(10)
    begin()
    assert main(["--resume", str(tmp_path / "out"), "--workers", "1", "--sample-batch", "9"]) == 0


def test_another_model_under_the_same_name_is_refused(
    begin, interrupt, toy_policy, model, tmp_path
):
    interrupt(10)
    begin()
    with torch.no_grad():
        for parameter in toy_policy.model.parameters():
            parameter += 0.01
    toy_policy.save(model)
    with pytest.raises(CheckpointError, match=r"the model of the evaluation in .* changed"):
        main(["--resume", str(tmp_path / "out")])


def test_random_numbers_of_an_earlier_version_are_not_mixed_with_others(begin, interrupt, tmp_path):
    interrupt(10)
    begin()
    file = tmp_path / "out/settings.json"
    header = json.loads(file.read_text())
    del header["identity"]["random numbers"]
    file.write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match="the random numbers of the evaluation"):
        main(["--resume", str(tmp_path / "out")])


def test_other_tasks_under_the_same_name_are_refused(model, tmp_path):
    file = tmp_path / "tasks.jsonl"
    lines = [json.dumps({"prompt": f"What is {n}+1?", "answer": n + 1}) for n in range(60)]
    file.write_text("\n".join(lines))
    arguments = ["--model", str(model), "--tasks", str(file), "--num-tasks", "2"]
    main([*arguments, "--max-turn-tokens", "4", "--out", str(tmp_path / "out")])
    file.write_text("\n".join(line.replace("+1", " + 1") for line in lines))
    with pytest.raises(CheckpointError, match=r"the (problems|tasks) of the evaluation"):
        main(["--resume", str(tmp_path / "out")])


def test_a_line_that_a_kill_cut_short_is_dropped(begin, tmp_path):
    begin()
    file = tmp_path / "out" / "episodes.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]) + lines[-1][:40])
    assert main(["--resume", str(tmp_path / "out")]) == 0
    assert sorted(row["index"] for row in rows(tmp_path / "out")) == list(range(8))


def test_a_damaged_line_is_reported(begin, tmp_path):
    begin()
    file = tmp_path / "out" / "episodes.jsonl"
    file.write_text("{nonsense\n" + file.read_text())
    with pytest.raises(CheckpointError, match="line 1, is damaged"):
        main(["--resume", str(tmp_path / "out")])


def test_resuming_needs_an_evaluation(tmp_path):
    with pytest.raises(CheckpointError, match="--resume wants the --out directory"):
        main(["--resume", str(tmp_path)])


def test_journals_of_two_modes_do_not_mix():
    journal = EvalJournal()
    for mode in ("on", "off"):
        for index in (1, 0):
            journal.add_episode(mode, {"index": index})
    assert [row["index"] for row in journal.of_mode("on")] == [0, 1]
    assert all(row["mode"] == "off" for row in journal.of_mode("off"))
