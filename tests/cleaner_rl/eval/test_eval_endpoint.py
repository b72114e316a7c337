"""Evaluations of a model on a server, from the command line."""

import json
import os
import signal
import threading
import time

import pytest
from chat_server import completion, serve, tool_call
from scripted import call

from cleaner_rl.errors import EndpointError, UserError
from cleaner_rl.eval.__main__ import main

ANSWER = r"The answer is \boxed{%s}."
TASKS = [{"prompt": f"What is {n} * 7?", "answer": str(n * 7)} for n in range(2000)]


@pytest.fixture(scope="session")
def tasks(tmp_path_factory):
    path = tmp_path_factory.mktemp("tasks") / "products.jsonl"
    path.write_text("".join(json.dumps(task) + "\n" for task in TASKS))
    return path


@pytest.fixture
def evaluate(tasks, tmp_path):
    """Runs the command against a server; returns its status."""

    def run(server, *more, out="out", problems=6):
        return main(
            [
                *("--endpoint", server.url, "--model", "m", "--tasks", str(tasks)),
                *("--num-tasks", str(problems), "--out", str(tmp_path / out), *more),
            ]
        )

    return run


def summary(tmp_path):
    return json.loads((tmp_path / "out" / "summary.json").read_text())


def episodes(tmp_path):
    rows = (tmp_path / "out" / "episodes.jsonl").read_text().splitlines()
    return [json.loads(row) for row in rows]


def factor(request):
    question = next(m["content"] for m in request["messages"] if m["content"].startswith("What"))
    return int(question.split()[2])


def solver(request):
    """Calls the tool, which fails once, mends the call, and answers with what it was shown."""
    last = request["messages"][-1]["content"]
    if last.startswith("What"):
        return call(f"print({factor(request)} * seven)")
    if "NameError" in last:
        return call(f"print({factor(request)} * 7)")
    return ANSWER % last.removeprefix("<tool_response>").split()[0]


def test_episodes_are_played_and_counted(evaluate, tmp_path):
    with serve(solver) as server:
        assert evaluate(server, "--rollback", "both") == 0
    off, on = (summary(tmp_path)["results"][mode] for mode in ("off", "on"))
    assert off["metrics"]["accuracy"] == on["metrics"]["accuracy"] == 1.0
    assert (off["metrics"]["turns"], on["metrics"]["turns"]) == (3, 2)
    assert (off["metrics"]["failed_calls"], on["metrics"]["recovered"]) == (1, 1)
    assert off["metrics"]["tokens_sampled"] == 15
    counted = {"prompt_tokens": 6 * 33, "completion_tokens": 6 * 15, "estimated_tokens": 0}
    assert off["usage"] == counted
    assert summary(tmp_path)["difference"]["turns"] == [-1, -1, -1]
    assert summary(tmp_path)["warnings"] == []


def test_the_models_own_turns_and_the_tools_answers_are_shown(evaluate):
    with serve(solver) as server:
        evaluate(server, problems=1)
    system, question, turn, shown = server.requests[1]["messages"]
    assert (system["role"], question["role"], turn["role"]) == ("system", "user", "assistant")
    assert shown["role"] == "user"
    assert shown["content"].startswith("<tool_response>\n")
    assert shown["content"].endswith("\n</tool_response>")


def test_the_tools_own_role_on_request(evaluate):
    with serve(solver) as server:
        evaluate(server, "--tool-role", "tool", problems=1)
    shown = server.requests[1]["messages"][3]
    assert shown["role"] == "tool" and "NameError" in shown["content"]


def test_turns_share_the_budget_that_the_server_counts(evaluate):
    def spendthrift(request):
        return 200, completion(solver(request), tokens=30)

    with serve(spendthrift) as server:
        evaluate(server, "--max-response-tokens", "70", "--max-turn-tokens", "50", problems=1)
    assert [request["max_tokens"] for request in server.requests] == [50, 40, 10]


def test_a_model_that_knows_neither_tool_nor_box_gets_warnings(evaluate, tmp_path, capsys):
    with serve(lambda request: f"It is {factor(request) * 7}.") as server:
        evaluate(server, problems=2)
    printed = capsys.readouterr().err
    assert "no episode called the tool" in printed and "no answer stood in \\boxed{}" in printed
    assert len(summary(tmp_path)["warnings"]) == 2


def test_conversations_run_side_by_side_up_to_the_limit(evaluate):
    together = threading.Barrier(3)

    def wait_for_others(request):
        if request["messages"][-1]["content"].startswith("What"):
            together.wait(30)
        return solver(request)

    with serve(wait_for_others) as server:
        assert evaluate(server, "--concurrency", "3", problems=6) == 0
    assert server.busiest == 3


def test_every_turn_has_its_own_seed_and_keeps_it(evaluate):
    seeds = []
    for out in ("one", "two"):
        with serve(solver) as server:
            evaluate(server, "--samples", "2", out=out, problems=3)
        seeds.append(sorted(request["seed"] for request in server.requests))
    assert len(set(seeds[0])) == 3 * 2 * 3
    assert seeds[0] == seeds[1]


def test_the_key_comes_from_the_environment_and_is_not_written_down(
    evaluate, tmp_path, monkeypatch
):
    monkeypatch.setenv("MY_KEY", "hush-hush")
    with serve(solver) as server:
        evaluate(server, "--api-key-env", "MY_KEY", problems=1)
    assert server.headers[0]["Authorization"] == "Bearer hush-hush"
    written = [path.read_text() for path in (tmp_path / "out").iterdir()]
    assert not any("hush-hush" in text for text in written)


def test_a_refused_conversation_is_missing_and_tried_again(evaluate, tmp_path, capsys):
    strict = []

    def choosy(request):
        if not strict:
            strict.append(factor(request))
        if factor(request) == strict[0]:
            return 400, {"error": {"message": "I will not multiply that"}}
        return solver(request)

    with serve(choosy) as server:
        assert evaluate(server) == 1
    assert summary(tmp_path)["missing"] == {"off": 1} and not summary(tmp_path)["complete"]
    assert "--resume" in capsys.readouterr().err
    with serve(solver) as server:
        again = ["--resume", str(tmp_path / "out"), "--endpoint", server.url]
        assert main(again) == 0
        assert {factor(request) for request in server.requests} == set(strict)
    assert summary(tmp_path)["complete"]


def test_a_server_that_fails_everything_stops_the_evaluation(evaluate):
    def refuse(_):
        return 400, {"error": {"message": "temperature is not supported"}}

    with (
        serve(refuse) as server,
        pytest.raises(EndpointError, match=r"failed 4 episodes.*temperature is not supported"),
    ):
        evaluate(server, "--concurrency", "1")


def test_what_never_gets_a_turn_is_missing_and_the_rest_is_played(evaluate, tmp_path, capsys):
    odd = set()

    def half(request):
        if factor(request) % 2 and len(request["messages"]) > 2:
            odd.add(factor(request))
            return 200, {"choices": []}
        return solver(request)

    with serve(half) as server:
        assert evaluate(server, "--request-retries", "0", "--concurrency", "1") == 1
    assert summary(tmp_path)["missing"] == {"off": len(odd)} and 0 < len(odd) < 6
    assert summary(tmp_path)["results"]["off"]["metrics"]["accuracy"] == 1.0
    printed = capsys.readouterr().err
    assert "an episode is missing:" in printed and "not a chat completion" in printed
    assert f"{len(odd)} of 6 episodes are missing, spoilt" in printed


def test_a_server_that_does_not_count_tokens(evaluate, tmp_path):
    def uncounted(request):
        return 200, completion(solver(request)) | {"usage": None}

    with serve(uncounted) as server:
        evaluate(server, problems=1)
    usage = summary(tmp_path)["results"]["off"]["usage"]
    assert usage["completion_tokens"] == usage["estimated_tokens"] > 0
    assert "does not count tokens" in "".join(summary(tmp_path)["warnings"])


def parsing_server(request):
    """Plays the solver as a server does that parses and renders calls itself."""
    heard = [m["content"] for m in request["messages"] if m["role"] in ("user", "tool")]
    last = heard[-1].removeprefix("<tool_response>\n")
    if last.startswith("What"):
        return 200, completion(None, tool_calls=[tool_call(f"print({factor(request)} * seven)")])
    if "NameError" in last:
        call = tool_call(None, arguments={"code": f"print({factor(request)} * 7)"})
        return 200, completion("I mend it.", tool_calls=[call])
    return ANSWER % last.split()[0]


@pytest.mark.parametrize("told", ["--endpoint-tools", "--no-endpoint-tools"])
def test_a_server_that_parses_calls_is_understood(evaluate, tmp_path, told):
    with serve(parsing_server) as server:
        assert evaluate(server, "--rollback", "both", told, problems=2) == 0
    off, on = (summary(tmp_path)["results"][mode] for mode in ("off", "on"))
    assert off["metrics"]["accuracy"] == on["metrics"]["accuracy"] == 1.0
    assert (off["metrics"]["failed_calls"], on["metrics"]["recovered"]) == (1, 1)


def test_such_a_server_is_sent_calls_and_results_as_it_sends_them(evaluate):
    with serve(parsing_server) as server:
        evaluate(server, "--endpoint-tools", problems=1)
    system, question, first, failure, second, output = server.requests[2]["messages"]
    assert "<tool_call>" not in system["content"] and "boxed" in system["content"]
    assert (question["role"], first["content"], second["content"]) == ("user", "", "I mend it.")
    (call,) = second["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {
        "code": f"print({factor(server.requests[2])} * 7)"
    }
    assert len(call["id"]) == 9 and call["id"].isalnum()
    assert (output["role"], output["tool_call_id"]) == ("tool", call["id"])
    assert failure["tool_call_id"] == first["tool_calls"][0]["id"] != call["id"]
    assert output["content"] == str(factor(server.requests[2]) * 7)


def test_a_server_that_dies_loses_no_finished_episode(evaluate, tmp_path):
    answered = []

    def dying(request):
        answered.append(request)
        return solver(request) if len(answered) <= 7 else (503, {})

    with serve(dying) as server, pytest.raises(EndpointError, match=r"2 of 6 episodes are saved"):
        evaluate(server, "--concurrency", "1", "--request-retries", "0")
    with serve(solver) as server:
        again = ["--resume", str(tmp_path / "out"), "--endpoint", server.url]
        assert main(again) == 0
        # The third episode had one turn already: 2 turns of it and 3 episodes of 3 are left.
        assert len(server.requests) == 11
    rows = episodes(tmp_path)
    assert sorted(row["index"] for row in rows) == list(range(6))
    assert all(row["usage"]["completion_tokens"] == 15 for row in rows)


def test_ctrl_c_does_not_wait_for_the_server(evaluate, tmp_path, capsys):
    hanging = threading.Event()

    def hang(request):
        if len(server.requests) <= 4:
            return solver(request)
        os.kill(os.getpid(), signal.SIGINT)
        hanging.wait(60)
        return solver(request)

    began = time.monotonic()
    with serve(hang) as server:
        status = evaluate(server, "--concurrency", "1")
        seconds = time.monotonic() - began
        hanging.set()
    assert status == 130 and seconds < 30
    assert "1 of 6 episodes are saved" in capsys.readouterr().err
    assert len(episodes(tmp_path)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--endpoint", "localhost:8000", "--model", "m"], "such as http"),
        (["--endpoint", "http://localhost:8000/v1"], "needs --model"),
        (["--request-seconds", "0"], "above 0"),
        (["--endpoint-tools"], "--endpoint-tools is about a server"),
        (["--concurrency", "2"], "give its URL with --endpoint"),
        (
            [
                *("--endpoint", "http://localhost:1", "--model", "m", "--endpoint-tools"),
                *("--tool-format", "llama3"),
            ],
            "leave out --tool-format",
        ),
    ],
)
def test_wrong_settings_are_reported(arguments, message):
    with pytest.raises(UserError, match=message):
        main(arguments)
