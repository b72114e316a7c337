"""Loggers in addition to metrics.jsonl."""

import sys
from types import ModuleType

import pytest

from cleaner_rl.errors import UserError
from cleaner_rl.runs.loggers import check_logger, open_logger


def test_logger_none_accepts_everything(tmp_path):
    with open_logger("none", tmp_path, {}, 0) as log:
        log(1, {"reward": 0.5})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_reported(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=rf"pip install -e '\.\[{name}\]'"):
        check_logger(name)


def test_wandb_run_is_the_same_one_after_a_resumption(tmp_path, monkeypatch):
    opened, logged = [], []

    class Run:
        def log(self, metrics, step):
            logged.append((step, metrics))

        def finish(self):
            pass

    def init(**settings):
        opened.append(settings)
        return Run()

    wandb = ModuleType("wandb")
    wandb.init = init
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for step in (0, 1):
        with open_logger("wandb", tmp_path, {"seed": 3}, step) as log:
            log(step + 1, {"reward": 0.5})
    assert opened[0]["id"] == opened[1]["id"]
    assert opened[0]["config"] == {"seed": 3}
    assert logged == [(1, {"reward": 0.5}), (2, {"reward": 0.5})]
