"""The client of an OpenAI-compatible server: retries, refusals, and what it sends."""

import asyncio
import time
from email.utils import formatdate

import pytest
from chat_server import CUT, DROP, RESET, completion, serve, tool_call

from cleaner_env.chat.client import ChatClient, RequestFailed, ServerError
from cleaner_env.chat.messages import Usage
from cleaner_env.formats import HermesFormat
from cleaner_env.formats.protocol import TOOL_SCHEMA
from cleaner_rl.rollout.endpoint import EndpointRollout
from cleaner_rl.settings import EpisodeConfig, ServerConfig

QUESTION = [{"role": "user", "content": "What is 6*7?"}]


def ask(server, url=None, temperature=1.0, top_p=1.0, **settings):
    settings = {"request_retries": 3, "request_seconds": 5.0, **settings}
    config = ServerConfig(url or server.url, **settings)
    rollout = EndpointRollout(config, "m", EpisodeConfig(temperature=temperature), top_p)
    rollout.client._first_wait_s = 0.01

    async def once():
        async with rollout.client:
            turn, usage, _ = await rollout.ask(QUESTION, 32, 9)
            return turn, usage

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


def in_choice(**choice):
    return 200, {"choices": [choice], "usage": {"prompt_tokens": 11, "completion_tokens": 5}}


PASSING = {
    **{f"status {s}": (s, {}) for s in (408, 409, 425, 429, 500, 501, 503, 507, 520, 529, 599)},
    "dropped": DROP,
    "reset": RESET,
    "cut": CUT,
    "no JSON": b"<html>Bad gateway</html>",
    "no UTF-8": b"\xff\xfe\xfd",
    "no body": b"",
    "not an object": (200, [1]),
    "null": (200, None),
    "a stream": b'data: {"choices": [{"delta": {"content": "hel"}}]}\n\n',
    "an error": (200, {"error": {"message": "Provider returned error", "code": 502}}),
    "an error without a code": (200, {"error": "busy"}),
    "an error in a choice": in_choice(error={"message": "overloaded"}, finish_reason="error"),
    "nothing": (200, {}),
    "no choice": (200, {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}}),
    "null choices": (200, {"choices": None}),
    "a null message": in_choice(message=None),
    "content of no known form": (200, completion(7)),
    "parts of no known form": (200, completion([1])),
}


@pytest.mark.parametrize("trouble", PASSING.values(), ids=PASSING)
def test_what_may_pass_is_asked_again(trouble):
    with serve(script(trouble, trouble, "hello")) as server:
        assert ask(server)[0] == "hello"
        assert len(server.requests) == 3


ANSWERS = {
    "no content": (in_choice(message={"role": "assistant"}, finish_reason="stop"), ""),
    "null": ((200, completion(None)), ""),
    "parts": ((200, completion([{"type": "text", "text": "hel"}, {"text": "lo"}])), "hello"),
    "a refusal": ((200, completion(None, refusal="I will not.")), "I will not."),
    "half a surrogate pair": ((200, completion("a\ud83d")), "a?"),
    "a thought": (
        (200, completion("hello", reasoning_content="Hm.")),
        "<think>\nHm.\n</think>\n\nhello",
    ),
    "a thought alone": (
        (200, completion(None, reasoning="Hm </think> hm.")),
        "<think>\nHm  hm.\n</think>\n\n",
    ),
    "a thought twice": (
        (200, completion("<think>Hm.</think>hello", reasoning="Hm.")),
        "<think>Hm.</think>hello",
    ),
}


@pytest.mark.parametrize(("answer", "text"), ANSWERS.values(), ids=ANSWERS)
def test_every_message_is_a_turn(answer, text):
    with serve(script(answer)) as server:
        turn, usage = ask(server)
    assert (turn, usage) == (text, Usage(11, 5))


@pytest.mark.parametrize(
    "usage", [None, {}, {"completion_tokens": None}, {"completion_tokens": 0}, "?", [1]]
)
def test_tokens_that_are_not_counted_are_estimated(usage):
    with serve(script((200, completion("123456789") | {"usage": usage}))) as server:
        assert ask(server)[1] == Usage(0, 3, estimated_tokens=3)


CALLS = {
    "JSON": [tool_call("print(6*7)")],
    "an object": [tool_call(None, arguments={"code": "print(6*7)"})],
    "two": [tool_call("a = 1"), tool_call("print(6*7)")],
}


@pytest.mark.parametrize("calls", CALLS.values(), ids=CALLS)
def test_calls_that_the_server_parsed_are_written_into_the_turn(calls):
    with serve(script((200, completion(None, tool_calls=calls)))) as server:
        parsed = HermesFormat(max_calls=2).parse(ask(server)[0])
    assert parsed.codes == ("a = 1", "print(6*7)")[-len(calls) :]


def test_thought_text_and_call_keep_their_order():
    message = completion("I multiply.\n", reasoning="Hm.", tool_calls=[tool_call("print(6*7)")])
    with serve(script((200, message))) as server:
        parsed = HermesFormat().parse(ask(server)[0])
    assert parsed.reasoning == "<think>\nHm.\n</think>\n\nI multiply.\n"
    assert parsed.code == "print(6*7)"


def test_the_old_name_of_a_call_is_read():
    call = tool_call("print(6*7)")["function"]
    with serve(script((200, completion(None, function_call=call)))) as server:
        assert HermesFormat().parse(ask(server)[0]).code == "print(6*7)"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (tool_call("1", name="browser"), "no tool named 'browser'"),
        (tool_call("1", arguments='{"code": "print(1'), "not valid JSON"),
        (tool_call("1", arguments={"program": "1"}), 'string in "code"'),
        (tool_call("1", arguments=None), 'string in "code"'),
    ],
)
def test_a_malformed_call_is_an_error_that_the_model_is_shown(call, error):
    with serve(script((200, completion(None, tool_calls=[call])))) as server:
        parsed = HermesFormat().parse(ask(server)[0])
    assert parsed.code is None and error in parsed.error


def test_the_tool_is_described_on_request():
    with serve(script("hello")) as server:
        ask(server, endpoint_tools=True)
    assert server.requests[0]["tools"] == [TOOL_SCHEMA]


def test_the_server_says_how_long_to_wait():
    busy = (429, {"headers": {"Retry-After": "0.3"}})
    began = time.monotonic()
    with serve(script(busy, "hello")) as server:
        ask(server)
    assert time.monotonic() - began >= 0.3


def test_the_server_may_say_when_to_ask_again():
    at = formatdate(time.time() + 2, usegmt=True)
    began = time.monotonic()
    with serve(script((429, {"headers": {"Retry-After": at}}), "hello")) as server:
        ask(server)
    assert time.monotonic() - began >= 0.9


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
        pytest.raises(RequestFailed, match=r"4 attempts.*503: overloaded.*--request-retries"),
    ):
        ask(server)
    assert len(server.requests) == 4


def test_a_server_that_was_never_there_is_not_waited_for():
    began = time.monotonic()
    with pytest.raises(ServerError, match=r"cannot be reached: ConnectError.*check --endpoint"):
        ask(None, url="http://127.0.0.1:9/v1", request_retries=6)
    assert time.monotonic() - began < 5


def test_a_server_that_restarts_is_waited_for():
    async def twice(endpoint, server):
        async with endpoint:
            first = await endpoint.complete(QUESTION, 32, 9, HermesFormat())
            server.http.server_close()
            later = asyncio.create_task(endpoint.complete(QUESTION, 32, 9, HermesFormat()))
            await asyncio.sleep(0.1)
            with serve(script("again"), server.http.server_port):
                return first.turn, (await later).turn

    with serve(lambda _: (200, completion("hello") | {"headers": {"Connection": "close"}})) as one:
        endpoint = ChatClient(one.url, {}, seconds=5.0, first_wait_s=0.05)
        assert asyncio.run(twice(endpoint, one)) == ("hello", "again")


@pytest.mark.parametrize(
    ("status", "remedy"), [(401, "--api-key-env"), (404, "--model"), (405, "--endpoint")]
)
def test_errors_that_waiting_cannot_fix_are_reported_at_once(status, remedy):
    with (
        serve(lambda _: (status, {"error": {"message": "no"}})) as server,
        pytest.raises(ServerError, match=f"{status}: no.*{remedy}"),
    ):
        ask(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_after_an_answer_such_errors_are_of_one_conversation(status):
    async def twice(server):
        async with ChatClient(server.url, {}) as endpoint:
            await endpoint.complete(QUESTION, 32, 9, HermesFormat())
            await endpoint.complete(QUESTION, 32, 9, HermesFormat())

    with (
        serve(script("hello", (status, {"error": {"message": "flagged"}}))) as server,
        pytest.raises(RequestFailed, match=f"{status}: flagged"),
    ):
        asyncio.run(twice(server))


def test_an_error_in_the_body_keeps_its_status():
    body = {"error": {"message": "too long", "code": 400}}
    with serve(lambda _: (200, body)) as server, pytest.raises(RequestFailed, match="too long"):
        ask(server)
    assert len(server.requests) == 1


def test_a_refused_conversation_is_not_a_broken_server():
    with (
        serve(lambda _: (400, {"error": {"message": "too long"}})) as server,
        pytest.raises(RequestFailed, match="too long"),
    ):
        ask(server)


def test_an_answer_that_never_is_a_completion_is_reported():
    with (
        serve(lambda _: b"<html>Welcome</html>") as server,
        pytest.raises(RequestFailed, match=r"not a chat completion.*Welcome"),
    ):
        ask(server)
    assert len(server.requests) == 4
