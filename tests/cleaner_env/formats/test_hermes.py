"""The Hermes tool-call format."""

import pytest

from cleaner_env import HermesFormat

FORMAT = HermesFormat()


def test_rendered_call_is_read_back():
    code = "print(\"a\\n{}\")\nprint('é')"
    parsed = FORMAT.parse("Let me see.\n" + FORMAT.render(code))
    assert parsed.code == code
    assert parsed.reasoning == "Let me see.\n"
    assert parsed.error is None


def test_turn_without_call_is_all_reasoning():
    parsed = FORMAT.parse(r"The answer is \boxed{4}.")
    assert not parsed.has_call
    assert parsed.call_start == len(parsed.reasoning)


def test_call_inside_thinking_is_not_a_call():
    text = f"<think>maybe {FORMAT.render('print(1)')}</think>No call."
    assert not FORMAT.parse(text).has_call


def test_end_of_thinking_inside_a_program_does_not_hide_the_call():
    assert FORMAT.parse(FORMAT.render("print('</think>')")).code == "print('</think>')"


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("<tool_call>\n{not json}\n</tool_call>", "not valid JSON"),
        ("<tool_call>\n{}", "not closed"),
        ("<tool_call>[]</tool_call>", "object"),
        ('<tool_call>{"name": "search", "arguments": {}}</tool_call>', "no tool named 'search'"),
        ('<tool_call>{"name": "code_interpreter"}</tool_call>', '"code"'),
        (
            '<tool_call>{"name": "code_interpreter", "arguments": {"code": 3}}</tool_call>',
            '"code"',
        ),
        (FORMAT.render("1") + FORMAT.render("2"), "more than one call"),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "not valid JSON"),
    ],
)
def test_malformed_call_says_what_is_wrong(body, part):
    parsed = FORMAT.parse(body)
    assert parsed.has_call
    assert parsed.code is None
    assert part in parsed.error


def test_raw_newlines_in_the_program_are_accepted():
    text = '<tool_call>{"name": "code_interpreter", "arguments": {"code": "a=1\nb=2"}}</tool_call>'
    assert FORMAT.parse(text).code == "a=1\nb=2"
