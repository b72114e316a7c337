"""Repair of malformed calls: only on request, only after strict reading failed, and reported."""

import sys

import pytest

from cleaner_env import FORMATS, make_format

CALL = '<tool_call>{"name": "code_interpreter", "arguments": {"code": "%s"}%s</tool_call>'

XML = "<function=code_interpreter>\n<parameter=code>\nprint(1)\n</parameter>\n</function>"
HARMONY = "<|channel|>commentary to=functions.code_interpreter<|message|>"

REPAIRED = [
    ("hermes", CALL % ("print(1)", "")),
    ("hermes", CALL % ("print(1)", ",}")),
    ("hermes", (CALL % ("print(1)", "}")).replace('"', "'")),
    ("llama3", "{'name': 'code_interpreter', 'parameters': {'code': 'print(1)'}}"),
    ("llama3", '{"name": "code_interpreter", "parameters": {"code": "print(1)"}'),
    ("harmony", HARMONY + '{"code": "print(1)"'),
    ("qwen3-coder", XML),
    ("qwen3-coder", "<tool_call>\n" + XML.replace("</parameter>\n", "") + "\n</tool_call>"),
    ("qwen3-coder", "<tool_call>\n" + XML.partition("</")[0]),
]


@pytest.mark.parametrize(("name", "turn"), REPAIRED)
def test_common_slips_are_repaired_on_request_and_marked(name, turn):
    parsed = make_format(name, strict=False).parse(turn)
    assert (parsed.code, parsed.repaired) == ("print(1)", True)


@pytest.mark.parametrize(("name", "turn"), REPAIRED)
def test_they_are_errors_by_default(name, turn):
    assert make_format(name).parse(turn).error is not None
    assert FORMATS[name]().parse(turn).error is not None


@pytest.mark.parametrize("name", ["hermes", "qwen3-coder", "llama3", "harmony", "fenced"])
def test_what_can_be_read_is_not_repaired(name):
    format = make_format(name, strict=False)
    assert not format.parse(format.render("print('\"')")).repaired


def test_a_program_that_a_repair_would_cut_short_stays_an_error():
    # The quotation marks in the program are not escaped; json-repair ends it at one of them.
    turn = CALL % (r'd = {"a": 1, "b": [2]}\nprint(d["a"])', "}")
    parsed = make_format("hermes", strict=False).parse(turn)
    assert parsed.code is None
    assert "not valid JSON" in parsed.error


def test_a_dictionary_in_the_program_does_not_end_a_broken_call():
    turn = '{"name": "code_interpreter", "parameters": {"code": "d = {\'name\': 1}"}'
    assert make_format("llama3", strict=False).parse(turn).code == "d = {'name': 1}"


def test_long_nonsense_is_not_repaired():
    turn = f"<tool_call>{{'{'{' * 10_000}</tool_call>"
    assert "not valid JSON" in make_format("hermes", strict=False).parse(turn).error


@pytest.mark.parametrize("name", ["hermes", "llama3", "harmony"])
def test_a_missing_package_is_named_when_the_format_is_made(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "json_repair", None)
    monkeypatch.setattr("cleaner_env.formats.json_call.find_spec", lambda _: None)
    with pytest.raises(ImportError, match="pip install json-repair"):
        make_format(name, strict=False)
    make_format(name)
