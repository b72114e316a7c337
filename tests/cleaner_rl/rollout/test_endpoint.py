"""The client of an OpenAI-compatible server: retries, refusals, and what it sends."""

import asyncio
import time

import pytest
from chat_server import DROP, completion, serve

from cleaner_rl.errors import EndpointError
from cleaner_rl.rollout.endpoint import Endpoint, RequestRefused, Usage
from cleaner_rl.settings import ServerConfig

QUESTION = [{"role": "user", "content": "What is 6*7?"}]


def ask(server, url=None, temperature=1.0, top_p=1.0, **settings):
    settings = {"request_retries": 3, "request_seconds": 5.0, **settings}
    config = ServerConfig(url or server.url, **settings)

    async def once():
        async with Endpoint(config, "m", temperature, top_p, first_wait_s=0.01) as endpoint:
            return await endpoint.complete(QUESTION, 32, seed=9)

    return asyncio.run(once())


def script(*answers):
    """Gives the answers one after the other."""
    left = list(answers)
    return lambda _: left.pop(0)


def test_the_request_carries_the_settings(monkeypatch):
    monkeypatch.setenv("OUR_KEY", "secret")
    with serve(script("hello")) as server:
        turn, usage = ask(server, temperature=0.7, top_p=0.6, api_key_env="OUR_KEY")
    assert (turn, turn.truncated, usage) == ("hello", False, Usage(11, 5))
    assert server.requests == [
        {
            "model": "m",
            "messages": QUESTION,
            "max_tokens": 32,
            "temperature": 0.7,
            "top_p": 0.6,
            "seed": 9,
        }
    ]
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_no_key_is_sent_without_one(monkeypatch):
    monkeypatch.setenv("OUR_KEY", "")
    with serve(script("hello")) as server:
        ask(server, api_key_env="OUR_KEY")
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("suffix", ["/", "/chat/completions"])
def test_other_spellings_of_the_url(suffix):
    with serve(script("hello")) as server:
        assert ask(server, url=server.url + suffix)[0] == "hello"


def test_a_turn_that_the_limit_ended_is_truncated():
    with serve(script((200, completion("hel", finish="length")))) as server:
        assert ask(server)[0].truncated


def test_an_empty_message_is_an_empty_turn():
    with serve(script((200, completion(None)))) as server:
        assert ask(server)[0] == ""


@pytest.mark.parametrize("trouble", [(429, {}), (500, {}), (503, {"error": "loading"}), DROP])
def test_temporary_errors_are_retried(trouble):
    with serve(script(trouble, trouble, "hello")) as server:
        assert ask(server)[0] == "hello"
        assert len(server.requests) == 3


def test_the_server_says_how_long_to_wait():
    busy = (429, {"headers": {"Retry-After": "0.3"}})
    began = time.monotonic()
    with serve(script(busy, "hello")) as server:
        ask(server)
    assert time.monotonic() - began >= 0.3


def test_a_silent_server_is_asked_again():
    def answer(request):
        if len(server.requests) == 1:
            time.sleep(0.4)
        return "hello"

    with serve(answer) as server:
        assert ask(server, request_seconds=0.1)[0] == "hello"


def test_lasting_errors_are_reported():
    with (
        serve(lambda _: (503, {"error": {"message": "overloaded"}})) as server,
        pytest.raises(EndpointError, match=r"4 attempts.*503: overloaded.*--request-retries"),
    ):
        ask(server)
    assert len(server.requests) == 4


def test_a_missing_server_is_reported():
    with pytest.raises(EndpointError, match=r"did not answer.*ConnectError"):
        ask(None, url="http://127.0.0.1:9/v1", request_retries=0)


@pytest.mark.parametrize(
    ("status", "remedy"), [(401, "--api-key-env"), (404, "--model"), (405, "--endpoint")]
)
def test_errors_that_waiting_cannot_fix_are_reported_at_once(status, remedy):
    with (
        serve(lambda _: (status, {"error": {"message": "no"}})) as server,
        pytest.raises(EndpointError, match=f"{status}: no.*{remedy}"),
    ):
        ask(server)
    assert len(server.requests) == 1


def test_a_refused_conversation_is_not_a_broken_server():
    with (
        serve(lambda _: (400, {"error": {"message": "too long"}})) as server,
        pytest.raises(RequestRefused, match="too long"),
    ):
        ask(server)


@pytest.mark.parametrize(
    "body",
    [{}, {"choices": []}, {"choices": [{"message": {"content": "x"}}]}, [1], completion([1])],  # type: ignore[arg-type]
)
def test_an_answer_that_is_not_a_completion_is_reported(body):
    with (
        serve(lambda _: (200, body)) as server,
        pytest.raises(EndpointError, match="did not answer with a chat completion"),
    ):
        ask(server)
