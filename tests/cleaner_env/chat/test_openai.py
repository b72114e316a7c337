"""OpenAI's messages both ways: what a client is to send, and its answer as an action."""

import json
from types import SimpleNamespace

import pytest
from chat_server import completion, tool_call

from cleaner_env import CodeToolEnv, SAARWrapper
from cleaner_env.chat import ServerFormat, action_from_openai, openai_messages, tools_schema
from cleaner_env.formats import TOOL_SCHEMA

TASK = {"prompt": "What is 6*7?", "answer": "42"}


@pytest.fixture
def env(sandbox):
    env = SAARWrapper(CodeToolEnv([TASK], sandbox=sandbox, format=ServerFormat(max_calls=3)))
    env.reset()
    return env


def calls(*codes, content=None, **more):
    """An assistant's message with calls."""
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{**tool_call(code), "id": f"theirs{i}"} for i, code in enumerate(codes)],
        **more,
    }


def step(env, message):
    return env.step(action_from_openai(message))[4]


def test_a_call_and_its_result_refer_to_each_other(env):
    sent = openai_messages(step(env, calls("print(6 * 7)", content="I compute.")))
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool"]
    (call,) = sent[2]["tool_calls"]
    assert (sent[2]["content"], call["type"]) == ("I compute.", "function")
    assert json.loads(call["function"]["arguments"]) == {"code": "print(6 * 7)"}
    assert call["function"]["name"] == "code_interpreter"
    assert sent[3] == {"role": "tool", "tool_call_id": call["id"], "content": "42"}


def test_parallel_calls_have_an_id_and_a_result_each(env):
    sent = openai_messages(step(env, calls("print(6)", "print(7)")))
    ids = [call["id"] for call in sent[2]["tool_calls"]]
    assert len(set(ids)) == 2
    assert [message.get("tool_call_id") for message in sent[3:]] == ids
    assert sent[4]["content"] == "[call 1 of 2]\n6\n[call 2 of 2]\n7"


def test_parallel_calls_that_the_environment_refuses_are_still_calls(sandbox):
    env = SAARWrapper(CodeToolEnv([TASK], sandbox=sandbox, format=ServerFormat()))
    env.reset()
    sent = openai_messages(step(env, calls("print(6)", "print(7)")))
    assert len(sent[2]["tool_calls"]) == 2
    assert "send one call" in sent[4]["content"]


def test_a_splice_shows_the_correction_under_the_place_of_the_failed_call(env):
    shown = openai_messages(step(env, calls("print(6 * x)", content="I compute.")))
    assert "NameError" in shown[-1]["content"]
    sent = openai_messages(step(env, calls("print(6 * 7)", content="Again.")))
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool"]
    assert sent[2]["content"] == "I compute."
    assert "6 * 7" in sent[2]["tool_calls"][0]["function"]["arguments"]


def test_arguments_that_are_no_json_are_shown_as_text_with_what_is_wrong(env):
    message = calls("x")
    message["tool_calls"][0]["function"]["arguments"] = '{"code": "print(1)'
    sent = openai_messages(step(env, message))
    assert "tool_calls" not in sent[2] and sent[3]["role"] == "user"
    assert "ToolCallError" in sent[3]["content"]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_come_and_go_in_a_field_of_their_own(env, field):
    thought = {field: "Six times seven. <tool_call> is not needed."}
    info = step(env, calls("print(6 * 7)", content="I compute.", **thought))
    assert env.episode.turns[0].text.startswith("<think>\nSix times")
    sent = openai_messages(info, reasoning_field=field)[2]
    assert (sent[field], sent["content"]) == (thought[field], "I compute.")
    assert len(sent["tool_calls"]) == 1
    assert "<think>" in openai_messages(info)[2]["content"]


def test_a_turn_without_thoughts_has_no_such_field(env):
    info = step(env, calls("print(1)", content="I compute."))
    sent = openai_messages(info, reasoning_field="reasoning")[2]
    assert "reasoning" not in sent and sent["content"] == "I compute."


def test_a_bare_list_of_messages_will_do(env):
    info = step(env, calls("print(1)"))
    assert openai_messages(info["messages"]) == openai_messages(info)


def test_an_answer_is_the_first_choice(env):
    body = completion(r"It is \boxed{42}.")
    action = action_from_openai(body)
    assert (str(action), action.truncated) == (r"It is \boxed{42}.", False)
    assert env.step(action)[1] == 1.0


def test_an_answer_that_a_limit_cut_off_is_truncated():
    body = completion("It is", finish="length")
    assert action_from_openai(body).truncated
    assert action_from_openai(body["choices"][0]).truncated
    assert not action_from_openai(body["choices"][0]["message"]).truncated


def test_objects_of_a_client_will_do():
    message = calls("print(1)")
    told = SimpleNamespace(model_dump=lambda: {"choices": [{"message": message}]})
    assert action_from_openai(told) == action_from_openai(message)


@pytest.mark.parametrize(
    "answer",
    [None, [], {"choices": []}, {"content": 3}, "text", {"role": "user", "content": "6*7?"}],
)
def test_what_is_no_answer_is_refused(answer):
    with pytest.raises(ValueError, match="neither a chat completion nor a message"):
        action_from_openai(answer)


def test_the_schema_is_a_copy():
    tools_schema()[0]["function"]["name"] = "other"
    assert tools_schema() == [TOOL_SCHEMA]
