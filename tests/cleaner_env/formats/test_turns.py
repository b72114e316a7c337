"""Turns as models write them in each format, and the errors for malformed ones."""

import pytest

from cleaner_env import make_format

XML = (
    "<tool_call>\n<function=code_interpreter>\n<parameter=code>\nprint(1)\n</parameter>\n"
    "</function>\n</tool_call>"
)
LLAMA = '{"name": "code_interpreter", "parameters": {"code": "print(1)"}}'
TOOL = "to=functions.code_interpreter"
HARMONY = f'<|channel|>commentary {TOOL} <|constrain|>json<|message|>{{"code": "print(1)"}}'
ANALYSIS = "<|channel|>analysis<|message|>I count.<|end|><|start|>assistant"

WELL_FORMED = [
    ("qwen3-coder", "I run it.\n\n" + XML),
    ("qwen3-coder", XML.replace("\n", "")),
    ("qwen3-coder", XML.replace("<par", "<parameter=timeout>5</parameter><par", 1)),
    ("llama3", LLAMA),
    ("llama3", "I run it.\n" + LLAMA),
    ("llama3", "<|python_tag|>" + LLAMA),
    ("llama3", LLAMA.replace('"parameters"', '"arguments"')),
    ("llama3", LLAMA.replace('{"name"', '{"type": "function", "name"')),
    ("llama3", "<|python_tag|>print(1)"),
    ("llama3", "<|python_tag|>print(1)<|eom_id|>"),
    ("harmony", HARMONY),
    ("harmony", ANALYSIS + HARMONY),
    ("harmony", ANALYSIS + HARMONY + "<|call|>"),
    ("harmony", HARMONY.replace(" <|constrain|>json", "")),
    ("harmony", f' {TOOL}<|channel|>commentary json<|message|>{{"code": "print(1)"}}'),
    ("harmony", ANALYSIS + "<|channel|>analysis to=python code<|message|>print(1)"),
    ("harmony", "<|channel|>commentary to=python<|message|>print(1)<|call|>"),
    ("fenced", "I run it:\n\n```python\nprint(1)\n```\n"),
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


@pytest.mark.parametrize("name", ["hermes", "qwen3-coder", "llama3", "fenced"])
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
