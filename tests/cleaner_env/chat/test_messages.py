"""Chat messages: turns read from a server's messages, and conversations written for a server."""

import json

import pytest

from cleaner_env.chat.messages import ServerFormat, sent_messages, turn_text
from cleaner_env.formats import FORMATS, HermesFormat, make_format

ASKED = {"role": "user", "content": "What is 6*7?"}
SHOWN = {"role": "tool", "content": "42"}


def said(text):
    return {"role": "assistant", "content": text}


def calling(*codes, **message):
    functions = [{"name": "code_interpreter", "arguments": json.dumps({"code": c})} for c in codes]
    return {"content": None, "tool_calls": [{"function": f} for f in functions], **message}


@pytest.mark.parametrize("name", FORMATS)
def test_a_parsed_call_is_written_in_every_format(name):
    format = make_format(name)
    code = 'print("</tool_call>", "a\\n")  # é\nprint(2)'
    assert format.parse(turn_text(calling(code), format)).code == code
    twice = make_format(name, max_calls=2)
    assert twice.parse(turn_text(calling(code, "print(3)"), twice)).codes == (code, "print(3)")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "call",
    [
        {"name": "code_interpreter", "arguments": '{"code": "print(1'},
        {"name": "code_interpreter", "arguments": "print(1)"},
        {"name": "code_interpreter", "arguments": "```python\nprint(1)\n```\nSo it is."},
        {"name": "code_interpreter", "arguments": '{"program": "print(1)"}'},
        {"name": "code_interpreter", "arguments": {"code": 1}},
        {"name": "code_interpreter"},
        {"name": "search", "arguments": {"code": "print(1)"}},
    ],
)
def test_a_call_without_a_program_is_a_malformed_call_in_every_format(name, strict, call):
    format = make_format(name, max_calls=3, strict=strict)
    others = calling("print(2)")["tool_calls"]
    message = {"content": "I compute.", "tool_calls": [*others, {"function": call}, *others]}
    parsed = format.parse(turn_text(message, format))
    assert parsed.error is not None and parsed.codes == ()


@pytest.mark.parametrize(
    "message", [None, 7, {"content": {}}, {"tool_calls": [{}]}, {"content": [7]}]
)
def test_what_is_no_message_is_refused(message):
    with pytest.raises((TypeError, KeyError, AttributeError)):
        turn_text(message, HermesFormat())


def test_what_is_sent_back_is_what_the_server_sent():
    format = ServerFormat()
    turn = turn_text(calling("print(6*7)", content="I multiply."), format)
    _, assistant, tool = sent_messages([ASKED, said(turn), SHOWN], format)
    assert assistant["content"] == "I multiply."
    (call,) = assistant["tool_calls"]
    assert call["function"]["name"] == "code_interpreter"
    assert json.loads(call["function"]["arguments"]) == {"code": "print(6*7)"}
    assert tool == {"role": "tool", "tool_call_id": call["id"], "content": "42"}


def test_every_call_has_a_result_and_the_last_has_the_output():
    format = ServerFormat(max_calls=2)
    turn = turn_text(calling("a = 1", "print(a)"), format)
    _, assistant, first, last, _ = sent_messages([ASKED, said(turn), SHOWN, said("So.")], format)
    ids = [call["id"] for call in assistant["tool_calls"]]
    assert [first["tool_call_id"], last["tool_call_id"]] == ids and len(set(ids)) == 2
    assert last["content"] == "42" and "last result" in first["content"]


def test_no_two_calls_of_a_conversation_share_an_id():
    format = ServerFormat()
    turn = said(turn_text(calling("print(6*7)"), format))
    sent = sent_messages([ASKED, turn, SHOWN, turn, SHOWN], format)
    assert sent[1]["tool_calls"][0]["id"] != sent[3]["tool_calls"][0]["id"]


def test_the_error_of_a_malformed_call_is_told_by_the_user():
    format = ServerFormat()
    turn = turn_text({"tool_calls": [{"function": {"name": "browser", "arguments": "{}"}}]}, format)
    error = {"role": "tool", "content": format.parse(turn).error}
    _, assistant, told = sent_messages([ASKED, said(turn), error], format)
    assert assistant == said(turn)
    assert told["role"] == "user" and "no tool named 'browser'" in told["content"]


@pytest.mark.parametrize(
    ("role", "sent_as"), [("auto", "user"), ("user", "user"), ("tool", "tool")]
)
def test_text_is_sent_as_text(role, sent_as):
    messages = [ASKED, said(HermesFormat().render("print(6*7)")), SHOWN]
    *same, output = sent_messages(messages, HermesFormat(), role)
    assert same == messages[:2]
    assert output["role"] == ("tool" if role == "tool" else "user")
    tagged = "<tool_response>\n42\n</tool_response>"
    assert output["content"] == ("42" if role == "tool" else tagged)
