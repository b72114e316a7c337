"""Every example runs and does what it says."""

import importlib.util
import math
from pathlib import Path

import pytest
from chat_server import completion, serve, tool_call

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_examples_are_tested():
    tested = {"drive_env", "watch_rollback", "foreign_agent", "other_environment", "session"}
    tested |= {"train_two_steps", "train_with_trl"}
    tested |= {"purified_rows", "vector_env", "openai_client", "smolagents_memory"}
    tested |= {"verl_saar", "verifiers_saar"}  # by .ci/integrations
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_drive_env(capsys):
    assert load("drive_env").main() == 1.0
    assert "the tool answers: 10000" in capsys.readouterr().out


def test_watch_rollback(capsys):
    episode = load("watch_rollback").main()
    assert [turn.code for turn in episode.turns[:1]] == [
        "from math import comb\nprint(comb(10, 3))"
    ]
    assert "shallow splice" in capsys.readouterr().out


def test_foreign_agent():
    episode = load("foreign_agent").main()
    assert episode.reward == 1.0
    assert episode.stats.recovered == 1


def test_other_environment(capsys):
    episode = load("other_environment").main()
    assert episode.reward == 1.0
    assert (episode.stats.shallow, episode.rollbacks[0].error_class) == (1, "OperationalError")
    assert "lookahead: True" in capsys.readouterr().out


def test_session(capsys):
    load("session").main()
    assert capsys.readouterr().out.count("[1, 2, 3]") == 4


def test_purified_rows(capsys):
    trajectory, (correction,) = load("purified_rows").main()
    assert [message["role"] for message in trajectory["messages"][2:]] == [
        *("assistant", "tool", "assistant")
    ]
    assert "import math" in str(correction["chosen"])
    assert "import math" not in str(correction["rejected"])
    assert "DPOTrainer" in capsys.readouterr().out


def test_vector_env():
    episodes = load("vector_env").main(count=3)
    assert [(one.reward, one.stats.recovered, len(one.turns)) for one in episodes] == [
        (1, 1, 2)
    ] * 3


@pytest.mark.slow
def test_train_two_steps(tmp_path, capsys):
    metrics = load("train_two_steps").main(tmp_path / "run")
    assert [row["step"] for row in metrics] == [1, 2]
    assert all(math.isfinite(row["loss"]) for row in metrics)
    assert (tmp_path / "run" / "report.md").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_train_with_trl():
    rows = load("train_with_trl").main()
    assert [row["step"] for row in rows] == [1, 2]
    assert all(math.isfinite(row["loss"]) for row in rows)


# By .ci/integrations agents, which installs these packages.


def test_openai_client(capsys):
    pytest.importorskip("openai")
    episode = load("openai_client").main()
    assert (episode.reward, episode.stats.shallow) == (1.0, 1)
    assert "reward 1, rollbacks 1" in capsys.readouterr().out


def test_openai_client_sends_ids_that_refer_to_each_other(monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    answers = [
        completion(None, tool_calls=[tool_call("print(1)"), tool_call("print(479001600)")]),
        completion(r"\boxed{479001600}"),
    ]
    with serve(lambda _: (200, answers.pop(0))) as server:
        episode = load("openai_client").main(server.url, "some-model")
    assert episode.reward == 1.0
    first, second = server.requests
    assert first["model"] == "some-model"
    assert first["tools"][0]["function"]["name"] == "code_interpreter"
    said, *results = second["messages"][2:]
    assert [one["id"] for one in said["tool_calls"]] == [r["tool_call_id"] for r in results]
    assert len(results) == 2


def test_smolagents_memory():
    pytest.importorskip("smolagents")
    assert load("smolagents_memory").main() == {False: True, True: False}
