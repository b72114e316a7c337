"""Loggers in addition to the files of a run."""

import json
import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest
from scripted import call

from cleaner_env import CodeToolEnv, SAARWrapper, episode_to_dict
from cleaner_rl.errors import UserError
from cleaner_rl.runs.loggers import check_logger, held_out, in_groups, open_logger

VALUES = {"rollout/reward": 0.5, "learner/loss": 0.25, "held_out/accuracy": 0.75}


@pytest.fixture
def row(sandbox):
    """A logged episode with a rollback and half a surrogate pair, the second of its group."""
    env = SAARWrapper(CodeToolEnv(sandbox=sandbox, system_prompt=None))
    env.reset(options={"task": {"prompt": "What is 6*7?", "answer": "42"}})
    turns = [call("print(6 * y)"), call("print(6 * 7)"), "\ud800 \\boxed{42}"]
    for turn in turns:
        env.step(turn)
    training = {"step": 3, "group": 5, "member": 1, "rewards": [0.0, 1.0], "advantages": [-1, 1]}
    return json.loads(json.dumps(episode_to_dict(env.episode))) | {"training": training}


def test_logger_none_accepts_everything(tmp_path):
    with open_logger("none", tmp_path, {}, 0) as log:
        log(1, VALUES)
    assert list(tmp_path.iterdir()) == []


def test_values_are_grouped():
    step = {"step": 4, "reward": 0.5, "turns": 2.0, "step_seconds": 1.0, "loss": 0.1, "kl": 0.0}
    names = "rollout/reward rollout/turns rollout/step_seconds learner/loss learner/kl".split()
    assert list(in_groups(step)) == names
    assert list(held_out({"accuracy": 1.0})) == ["held_out/accuracy"]
    assert list(held_out({"accuracy": 1.0}, "on")) == ["held_out/rollback_on/accuracy"]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_reported(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=rf"pip install -e '\.\[{name}\]'"):
        check_logger(name)


def fake_wandb(mode, key):
    """What is used of wandb; it collects what it is given."""
    wandb = ModuleType("wandb")
    wandb.setup = lambda: SimpleNamespace(settings=SimpleNamespace(mode=mode))
    wandb.login = lambda prompt: key
    wandb.Table = lambda columns, data: [dict(zip(columns, of, strict=True)) for of in data]
    wandb.opened, wandb.logged = [], []

    class Run:
        def log(self, values, step):
            wandb.logged.append((step, values))

        def finish(self):
            pass

    def init(**settings):
        wandb.opened.append(settings)
        return Run()

    wandb.init = init
    return wandb


def test_wandb_run_is_the_same_one_after_a_resumption(tmp_path, monkeypatch, row):
    wandb = fake_wandb("online", True)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for step in (0, 1):
        with open_logger("wandb", tmp_path, {"seed": 3}, step) as log:
            log(step + 1, VALUES, [row] * step)
    opened, logged = wandb.opened, wandb.logged
    assert opened[0]["id"] == opened[1]["id"]
    assert (opened[0]["config"], opened[0]["dir"]) == ({"seed": 3}, tmp_path)
    assert logged[0] == (1, VALUES)
    (shown,) = logged[1][1]["rollout/transcripts"]
    assert (shown["reward"], shown["advantage"], shown["rollbacks"]) == (1.0, 1, 1)
    assert "[rollback]" in shown["transcript"] and r"\ud800 \boxed{42}" in shown["transcript"]


def test_wandb_without_a_key_is_refused_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb("online", False))
    with pytest.raises(UserError, match="WANDB_MODE=offline"):
        check_logger("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb("offline", False))
    check_logger("wandb")


# The packages themselves, where they are installed: the extras of the same names.


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_writes_below_the_run_directory(tmp_path, monkeypatch, row):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="WANDB_MODE=offline"):
        check_logger("wandb")
    import wandb

    wandb.teardown()  # it reads its settings once
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_logger("wandb")
    run = tmp_path / "run"
    run.mkdir()
    with open_logger("wandb", run, {"seed": 3}, 0) as log:
        log(1, VALUES, [row])
    (table,) = run.glob("wandb/offline-run-*/files/media/table/rollout/*.json")
    assert "NameError" in table.read_text()


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_has_values_and_text(tmp_path, row):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_logger("tensorboard", tmp_path, {}, 0) as log:
        log(1, VALUES, [row])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert sorted(tags["scalars"]) == sorted(VALUES)
    (text,) = events.Tensors(tags["tensors"][0])
    assert b"    [rollback]" in text.tensor_proto.string_val[0]


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_has_values_and_traces_with_the_metadata_of_trl(tmp_path, monkeypatch, row):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("TRACKIO_PROJECT", "tried")
    for step in (1, 2):
        with open_logger("trackio", tmp_path, {"seed": 3}, step - 1) as log:
            log(step, VALUES, [row])
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs("tried")
    logs = SQLiteStorage.get_logs("tried", run)
    assert [(of["step"], of["rollout/reward"]) for of in logs] == [(1, 0.5), (2, 0.5)]
    trace = SQLiteStorage.get_traces("tried", run)[0]
    known = {"reward": 1.0, "advantage": 1, "group_id": 5, "model_version": 2}
    assert trace["metadata"].items() >= known.items()
    assert [span["status"] for span in trace["spans"]] == ["error", "ok"]
    assert trace["messages"][1]["content"] == call("print(6 * 7)")
