"""Turns as models write them in each format, and the errors for malformed ones."""

import json

import pytest

from cleaner_env import make_format
from cleaner_env.formats.thoughts import ends_in_thought

XML = (
    "<tool_call>\n<function=code_interpreter>\n<parameter=code>\nprint(1)\n</parameter>\n"
    "</function>\n</tool_call>"
)
HERMES = '{"name": "code_interpreter", "arguments": {"code": "print(1)"}}'
LLAMA = '{"name": "code_interpreter", "parameters": {"code": "print(1)"}}'
TOOL = "to=functions.code_interpreter"
HARMONY = f'<|channel|>commentary {TOOL} <|constrain|>json<|message|>{{"code": "print(1)"}}'
ANALYSIS = "<|channel|>analysis<|message|>I count.<|end|><|start|>assistant"

WELL_FORMED = [
    ("qwen3-coder", "I run it.\n\n" + XML),
    ("qwen3-coder", XML.replace("\n", "")),
    ("qwen3-coder", XML.replace("<par", "<parameter=timeout>5</parameter><par", 1)),
    ("qwen3-coder", XML.replace("\n", "\r\n")),
    ("llama3", LLAMA),
    ("llama3", "I run it.\n" + LLAMA),
    ("llama3", "<|python_tag|>" + LLAMA),
    ("llama3", LLAMA.replace('"parameters"', '"arguments"')),
    ("llama3", LLAMA.replace('{"name"', '{"type": "function", "name"')),
    ("llama3", '{"parameters": {"code": "print(1)"}, "name": "code_interpreter"}'),
    ("llama3", '{"arguments": {"code": "print(1)"}, "name": "code_interpreter"}\r\n'),
    ("llama3", "<|python_tag|>print(1)"),
    ("llama3", "<|python_tag|>\r\nprint(1)\r\n"),
    ("llama3", "<|python_tag|>print(1)<|eom_id|>"),
    ("harmony", HARMONY),
    ("harmony", ANALYSIS + HARMONY),
    ("harmony", ANALYSIS + HARMONY + "<|call|>"),
    ("harmony", HARMONY.replace(" <|constrain|>json", "")),
    ("harmony", f' {TOOL}<|channel|>commentary json<|message|>{{"code": "print(1)"}}'),
    ("harmony", ANALYSIS + "<|channel|>analysis to=python code<|message|>print(1)"),
    ("harmony", "<|channel|>commentary to=python<|message|>print(1)<|call|>"),
    ("hermes", f"<tool_call>\r\n{HERMES}\r\n</tool_call>\r\n"),
    (
        "hermes",
        '<tool_call>{"arguments": {"code": "print(1)"}, "name": "code_interpreter"}</tool_call>',
    ),
    ("fenced", "I run it:\n\n```python\nprint(1)\n```\n"),
    ("fenced", "```python\r\nprint(1)\r\n```\r\n"),
    ("fenced", "```py\nprint(1)\n```\nIt prints 1."),
    ("fenced", "````Python\nprint(1)\n````"),
    ("fenced", " ```python  \r\nprint(1)\n ```  "),
]


@pytest.mark.parametrize(("name", "turn"), WELL_FORMED)
def test_the_program_is_found(name, turn):
    parsed = make_format(name).parse(turn)
    assert (parsed.code, parsed.error) == ("print(1)", None)


@pytest.mark.parametrize(
    ("name", "turn"),
    [
        ("hermes", r"The answer is \boxed{1}."),
        ("qwen3-coder", r"The answer is \boxed{1}: <function of x>"),
        ("llama3", r'The answer is \boxed{1}, or {"name": "Bob", "age": 3}.'),
        ("llama3", '{"name": "Bob", and no JSON'),
        ("llama3", 'The answer is {"parameters": {"a": 1}}.'),
        (
            "harmony",
            ANALYSIS.replace("count", "set x to=3") + r"<|channel|>final<|message|>\boxed{1}",
        ),
        ("harmony", "<|channel|>commentary<|message|>My plan: run it.<|end|>"),
        ("harmony", r"to=nobody: \boxed{1}"),
        ("fenced", "```\nprint(1)\n```"),
        ("fenced", "```json\n{}\n```"),
        ("fenced", "As in `python`, or ```python print(1)```"),
    ],
)
def test_a_turn_without_a_call_has_none(name, turn):
    parsed = make_format(name).parse(turn)
    assert not parsed.has_call
    assert parsed.reasoning == turn


@pytest.mark.parametrize(
    ("name", "turn", "part"),
    [
        ("qwen3-coder", XML.replace("</parameter>", ""), "not closed"),
        ("qwen3-coder", XML.replace("</tool_call>", ""), "not closed"),
        ("qwen3-coder", XML.replace("<tool_call>\n", ""), "must begin with"),
        ("qwen3-coder", XML.replace("code_interpreter", "find"), "no tool named 'find'"),
        ("qwen3-coder", XML.replace("=code>", "=source>"), "<parameter=code>"),
        ("qwen3-coder", '<tool_call>\n{"name": "code_interpreter"}\n</tool_call>', "followed by"),
        ("llama3", LLAMA[:-1], "not valid JSON"),
        ("llama3", LLAMA.replace('"', "'"), "not valid JSON"),
        ("llama3", LLAMA.replace("code_interpreter", "search"), "no tool named 'search'"),
        ("llama3", LLAMA.replace('"code"', '"source"'), '"parameters" must be'),
        ("llama3", "<|python_tag|> ", "no program"),
        ("harmony", HARMONY.replace(TOOL, "to=browser.open"), "no tool named 'browser"),
        ("harmony", HARMONY[:-1], "not valid JSON"),
        ("harmony", HARMONY.replace('"code"', '"source"'), '"arguments" must be'),
        ("harmony", "<|channel|>commentary to=functions.code_interpreter", "no <|message|>"),
        ("fenced", "```python\nprint(1)", "not closed"),
    ],
)
def test_a_malformed_call_says_what_is_wrong(name, turn, part):
    parsed = make_format(name).parse(turn)
    assert parsed.has_call
    assert parsed.code is None
    assert part in parsed.error


def test_xml_cannot_carry_its_own_end():
    with pytest.raises(ValueError, match="another format"):
        make_format("qwen3-coder").render("print('</parameter>')")


def test_a_program_with_fences_is_written_between_longer_ones():
    code = 'text = """\n```python\n   ````\n"""'
    assert make_format("fenced").render(code) == f"`````python\n{code}\n`````"
    assert make_format("fenced").parse(make_format("fenced").render(code)).code == code


def test_words_before_a_harmony_header_are_no_part_of_the_call():
    parsed = make_format("harmony").parse("I run it. " + HARMONY)
    assert (parsed.reasoning, parsed.call) == ("I run it. ", HARMONY)


HERMES_END = json.dumps({"name": "code_interpreter", "arguments": {"code": "s = '</tool_call>'"}})


@pytest.mark.parametrize(
    ("name", "turn", "code"),
    [
        ("hermes", f"<tool_call>\n{HERMES_END}\n</tool_call>", "s = '</tool_call>'"),
        ("qwen3-coder", XML.replace("1", "'</tool_call>'"), "print('</tool_call>')"),
        ("qwen3-coder", XML.replace("1", "'</parameter>'"), "print('</parameter>')"),
        ("harmony", HARMONY.replace("1", "'<|end|><|call|>'"), "print('<|end|><|call|>')"),
        ("llama3", LLAMA.replace("1", "'<|eot_id|>'"), "print('<|eot_id|>')"),
        ("llama3", '<|python_tag|>{"parameters": 1}', '{"parameters": 1}'),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_what_ends_a_call_may_stand_in_its_program(name, turn, code, strict):
    parsed = make_format(name, strict=strict).parse(turn)
    assert (parsed.code, parsed.repaired, parsed.error) == (code, False, None)


THOUGHTFUL = pytest.mark.parametrize("name", ["hermes", "qwen3-coder", "llama3", "fenced"])
UNKNOWN = pytest.mark.parametrize("opened", [True, False])


@THOUGHTFUL
@UNKNOWN
def test_drafts_before_the_end_of_a_thought_are_no_calls(name, opened):
    # A server's template is not visible: then only the closing tag shows that there was a thought.
    format = make_format(name, opened_thinking=opened)
    draft, call = format.render("draft()"), format.render("print('</think>')")
    thought = f"I could send\n{draft}\nor\n{draft}\nbut no.\n</think>\n\n"
    assert not format.parse(thought + r"It is \boxed{1}.").has_call
    parsed = format.parse(thought + call)
    assert (parsed.reasoning, parsed.code) == (thought, "print('</think>')")


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        *(("<think>", "</think>"), ("[THINK]", "[/THINK]")),
        *(("<|channel>thought\n", "<channel|>"), ("<|START_THINKING|>", "<|END_THINKING|>")),
    ],
)
def test_thoughts_are_marked_in_several_ways(opening, closing):
    format = make_format("hermes")
    thought = f"{opening}I could send {format.render('draft()')} but no.{closing}"
    assert format.parse(thought + format.render("print(1)")).code == "print(1)"
    assert not format.parse(thought.removeprefix(opening) + "It is 1.").has_call
    assert ends_in_thought(thought.removesuffix(closing)) and not ends_in_thought(thought)


@THOUGHTFUL
@pytest.mark.parametrize("opening", ["<think>\n", ""])
def test_in_a_thought_that_is_never_closed_only_a_call_at_the_end_counts(name, opening):
    format = make_format(name, opened_thinking=not opening)
    thought = f"{opening}I could send\n{format.render('draft()')}\nbut no.\n"
    assert not format.parse(thought + "It is 1.").has_call
    parsed = format.parse(f"{thought}{format.render('print(1)')}\n")
    assert (parsed.reasoning, parsed.code) == (thought, "print(1)")


def test_several_calls_may_end_a_thought_that_is_never_closed():
    format = make_format("llama3", opened_thinking=True, max_calls=2)
    assert format.parse("Hm. " + format.render("1", "2")).codes == ("1", "2")


@THOUGHTFUL
def test_thinking_that_the_prompt_began_is_reasoning(name):
    format = make_format(name, opened_thinking=True)
    thought = f"Perhaps\n{format.render('draft')}\n</think>\n"
    assert not format.parse(thought + "No call.").has_call
    assert format.parse(thought + format.render("print(1)")).reasoning == thought
    assert format.parse(thought + format.render("print(1)")).code == "print(1)"


def test_only_analysis_is_thinking_in_harmony():
    draft = ANALYSIS.replace("I count.", "functions.code_interpreter can do it")
    assert make_format("harmony").parse(draft + HARMONY).reasoning == draft


@pytest.mark.parametrize("name", ["hermes", "qwen3-coder", "llama3", "harmony", "fenced"])
def test_a_second_call_is_refused_by_default(name):
    format = make_format(name)
    parsed = format.parse("Two:\n" + format.render("print(1)", "print(2)"))
    assert parsed.error == "more than one call in a turn; send one call and wait for its result"
    assert parsed.codes == ()


def test_no_program_is_read_when_one_of_several_calls_is_malformed():
    format = make_format("hermes", max_calls=2)
    parsed = format.parse(format.render("print(1)") + "<tool_call>{}</tool_call>")
    assert parsed.codes == ()
    assert parsed.error.startswith("call 2 of 2: there is no tool named None")


def test_calls_beyond_the_limit_are_refused():
    format = make_format("hermes", max_calls=2)
    assert format.parse(format.render("1", "2")).codes == ("1", "2")
    assert "at most 2" in format.parse(format.render("1", "2", "3")).error


def test_unknown_name_and_limit_are_refused():
    with pytest.raises(ValueError, match="use one of: hermes, qwen3-coder"):
        make_format("xml")
    with pytest.raises(ValueError, match="max_calls must be at least 1"):
        make_format("hermes", max_calls=0)
