"""Repair of malformed calls: only on request, only after strict reading failed, and reported."""

import json

import pytest

from cleaner_env import FORMATS, make_format

CALL = '<tool_call>{"name": "code_interpreter", "arguments": {"code": "%s"}%s</tool_call>'

XML = "<function=code_interpreter>\n<parameter=code>\nprint(1)\n</parameter>\n</function>"
LENIENT = make_format("hermes", strict=False)
HARMONY = "<|channel|>commentary to=functions.code_interpreter<|message|>"

REPAIRED = [
    ("hermes", CALL % ("print(1)", "")),
    ("hermes", CALL % ("print(1)", ",}")),
    ("hermes", (CALL % ("print(1)", "}")).replace('"', "'")),
    ("llama3", "{'name': 'code_interpreter', 'parameters': {'code': 'print(1)'}}"),
    ("llama3", '{"name": "code_interpreter", "parameters": {"code": "print(1)"}'),
    ("harmony", HARMONY + '{"code": "print(1)",}'),
    ("qwen3-coder", XML),
    ("qwen3-coder", "<tool_call>\n" + XML.replace("</parameter>\n", "") + "\n</tool_call>"),
    ("qwen3-coder", "<tool_call>\n" + XML.partition("</function")[0]),
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


def test_a_program_is_whole_up_to_the_last_quotation_mark():
    # The quotation marks in the program are not escaped.
    turn = CALL % (r'd = {"a": 1, "b": [2]}\nprint(d["a"])', "}")
    parsed = LENIENT.parse(turn)
    assert parsed.code == 'd = {"a": 1, "b": [2]}\nprint(d["a"])'


def call_of(code, **more):
    return json.dumps({"name": "code_interpreter", "arguments": {"code": code, **more}})


@pytest.mark.parametrize(
    ("turn", "code"),
    [
        ("<tool_call>\n" + call_of("print(1)"), "print(1)"),
        ("<tool_call>\n" + call_of("print(1)") + "\nI wait for the result.", "print(1)"),
        ("<tool_call>" + call_of("1", more=2) + "}</tool_call>", "1"),
        (
            '<tool_call>{"name": "code_interpreter", "arguments": '
            + json.dumps(json.dumps({"code": "print(1)"}))
            + "}</tool_call>",
            "print(1)",
        ),
        (CALL % (r"print(\'hi\', r'\d', '\u00e9\ud83d\ude00')", "}"), "print('hi', r'\\d', 'é😀')"),
        (CALL % ("x = 1\n" * 2000, ""), "x = 1\n" * 2000),
        ("<tool_call>\r\n" + call_of("print(1)")[:-1] + "\r\n</tool_call>\r\n", "print(1)"),
    ],
)
def test_slips_of_hermes_models_are_repaired(turn, code):
    parsed = LENIENT.parse(turn)
    assert (parsed.code, parsed.repaired, parsed.error) == (code, True, None)
    assert make_format("hermes").parse(turn).code is None


def test_calls_without_end_tags_are_told_apart():
    format = make_format("hermes", strict=False, max_calls=2)
    turn = "<tool_call>" + call_of("1") + "\n<tool_call>" + call_of("2") + "</tool_call>"
    assert format.parse(turn).codes == ("1", "2")


CUT = [
    # A literal end tag within a program whose quotation marks are not escaped.
    ("hermes", CALL % ('s = "</tool_call>"\\nprint(s)', "}")),
    ("hermes", CALL % ('d = {"a": "b"} # </tool_call>\\nprint(d)', "}")),
    # An object that seems to end within the program.
    ("hermes", CALL % ('print("}}")', "}")),
    ("llama3", '{"name": "code_interpreter", "parameters": {"code": "print("}}")"}}'),
    # Nothing shows that the program is whole.
    ("hermes", '<tool_call>{"name": "code_interpreter", "arguments": {"code": "x = 1\\ny ='),
    ("hermes", (CALL % ("print(1)", "}")).replace('"', "'").removesuffix("</tool_call>")),
    ("hermes", CALL % ('a = "x", "lang": "python', "}")),
    ("hermes", CALL % ('print(1)\\", "lang": "python', "}")),
    ("hermes", CALL % ("print(1)\\", "}")),
    ("llama3", '{"name": "code_interpreter", "parameters": {"code": "print("'),
    ("harmony", HARMONY + '{"code": "print("'),
    ("harmony", HARMONY + '{"code": "print("<|end|>")"}'),
    ("qwen3-coder", "<tool_call>\n" + XML.partition("</")[0]),
    ("qwen3-coder", XML.replace("print(1)", "print('</function>')").partition("')")[0]),
    ("qwen3-coder", XML.replace("print(1)", "print('</parameter>')").partition("')")[0] + "'"),
    ("qwen3-coder", XML.replace("1)\n</parameter>\n", "'</function>\n</tool_call>\n')\n")),
    ("fenced", "```python\nprint("),
]


@pytest.mark.parametrize(("name", "turn"), CUT)
@pytest.mark.parametrize("strict", [True, False])
def test_no_program_is_cut_in_the_middle(name, turn, strict):
    parsed = make_format(name, strict=strict).parse(turn)
    assert parsed.has_call
    assert parsed.code is None


def test_a_dictionary_in_the_program_does_not_end_a_broken_call():
    turn = '{"name": "code_interpreter", "parameters": {"code": "d = {\'name\': 1}"}'
    assert make_format("llama3", strict=False).parse(turn).code == "d = {'name': 1}"


def test_long_nonsense_is_not_repaired():
    turn = f"<tool_call>{{'{'{' * 10_000}</tool_call>"
    assert "not valid JSON" in make_format("hermes", strict=False).parse(turn).error
