"""The doctor looks at a server as it looks at a model."""

import json

import pytest
from chat_server import completion, serve, tool_call

from cleaner_env.formats import make_format
from cleaner_rl.doctor.__main__ import main

CODE = "print(6 * 7)"


@pytest.fixture
def look(capsys, tmp_path):
    """Runs the command on a server whose answer is scripted; gives its findings and the server."""
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(json.dumps({"prompt": "What is 6*7?", "answer": "42"}) + "\n")

    def run(answer, *more):
        with serve(answer if callable(answer) else lambda _: answer) as server:
            arguments = ["--endpoint", server.url, "--model", "m", "--tasks", str(tasks), "--json"]
            main([*arguments, "--allow-weak", "--request-retries", "0", *more])
        checks = json.loads(capsys.readouterr().out)["checks"]
        return {check["name"]: check for check in checks}, server

    return run


def hermes(code=CODE):
    return make_format("hermes").render(code)


def test_a_model_that_writes_calls_is_ready(look):
    found, server = look(hermes())
    assert list(found) == ["answer", "conversation", "sandbox", "tasks", "grader"]
    assert {found["answer"]["status"], found["conversation"]["status"]} == {"ok"}
    assert "read as hermes" in found["answer"]["text"]
    assert "<tool_call>" in server.requests[0]["messages"][0]["content"]


def test_a_server_that_parses_calls_is_ready(look):
    def answer(request):
        assert request["tools"]
        return 200, completion(None, tool_calls=[tool_call(CODE)], reasoning_content="Hm.")

    found, server = look(answer, "--endpoint-tools")
    assert found["answer"]["status"] == "ok"
    assert "a thought in a field of its own" in found["answer"]["text"]
    assert "parsed by the server" in found["answer"]["text"]
    assert [m["role"] for m in server.requests[1]["messages"][-2:]] == ["assistant", "tool"]


@pytest.mark.parametrize(
    ("answer", "status", "remedy"),
    [
        (make_format("qwen3-coder").render(CODE), "failed", "--tool-format qwen3-coder"),
        ("It is 42.", "warning", "--endpoint-tools"),
        ((200, completion("Let me", finish="length")), "warning", "--max-turn-tokens from 128"),
        ((200, completion(hermes()) | {"usage": None}), "warning", "four characters"),
        ((400, {"error": {"message": "no"}}), "failed", ""),
    ],
)
def test_what_would_go_wrong_is_named(look, answer, status, remedy):
    found, _ = look(answer)
    assert found["answer"]["status"] == status
    assert remedy in found["answer"]["remedy"]


def test_a_template_that_refuses_the_tools_role_is_noticed(look):
    def answer(request):
        if request["messages"][-1]["role"] == "tool":
            return 400, {"error": {"message": "roles must alternate"}}
        return hermes()

    found, _ = look(answer, "--tool-role", "tool")
    assert found["conversation"]["status"] == "failed"
    assert "roles must alternate" in found["conversation"]["text"]
    assert "--tool-role" in found["conversation"]["remedy"]
    assert look(answer)[0]["conversation"]["status"] == "ok"


def test_a_server_that_is_not_there_is_one_finding(look, capsys):
    found, _ = look(hermes(), "--endpoint", "http://127.0.0.1:9/v1")
    assert "cannot be reached" in found["answer"]["text"]
    assert "'answer'" in found["conversation"]["text"]


def test_a_model_that_the_server_does_not_have_is_named(look):
    found, _ = look((404, {"error": {"message": "no model m"}}))
    assert "no model m" in found["answer"]["text"] and "--model" in found["answer"]["text"]
