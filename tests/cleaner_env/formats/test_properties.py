"""What holds for every format: programs survive, nothing raises, and splices keep the call."""

import re
from difflib import SequenceMatcher

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scripted import decode, sampled

from cleaner_env import FORMATS, Completion, make_format, splice

MARKERS = (
    *("<tool_call>", "</tool_call>", '{"name": "code_interpreter", ', '"arguments": {"code": "'),
    *('"parameters": {"code": "', '{"name": ', "{'name': ", '"}}', "<function=", "</function>"),
    *("<function=code_interpreter>", "<parameter=code>", "<parameter=", "</parameter>"),
    *("<|python_tag|>", "<|eom_id|>", "<|eot_id|>", "<|start|>", "<|start|>assistant", "<|end|>"),
    *("<|channel|>commentary", "<|channel|>analysis", "<|message|>", "<|call|>", "<|return|>"),
    *(" to=functions.code_interpreter", " to=python", " to=", "<|constrain|>json", "json"),
    *("```", "````", "```python\n", "```py", "~~~", "<think>", "</think>", "code_interpreter"),
    *("\n", "\r\n", "\\", '"', "'", "{", "}", ";", " ", "<", "\\u003c", "\ue000", "\u2028"),
)
texts = st.lists(
    st.one_of(st.sampled_from(MARKERS), st.text(max_size=8)), max_size=12, unique=False
).map("".join)
programs = st.one_of(texts, st.sampled_from(["print(6 * 7)", "x = {'name': 1}\nprint(x)", ""]))
every_format = pytest.mark.parametrize("name", FORMATS)
calm = settings(max_examples=40, deadline=None)


def rendered(format, *codes):
    """The calls as the format writes them; programs that it cannot carry are passed over."""
    try:
        return format.render(*codes)
    except ValueError:
        assume(False)


@every_format
@calm
@given(code=programs)
def test_any_program_survives(name, code):
    format = make_format(name)
    parsed = format.parse(rendered(format, code))
    assert (parsed.code, parsed.error, parsed.call_start) == (code, None, 0)


@every_format
@calm
@given(codes=st.lists(programs, min_size=2, max_size=4))
def test_several_programs_survive_in_order(name, codes):
    format = make_format(name, max_calls=4)
    text = rendered(format, *codes)
    parsed = format.parse(text)
    assert parsed.codes == tuple(codes)
    assert parsed.code == "\n\n".join(codes)
    assert parsed.call == text


@every_format
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("opened", [True, False])
@calm
@given(text=texts)
def test_any_text_is_read_without_an_exception(name, strict, opened, text):
    parsed = make_format(name, max_calls=2, strict=strict, opened_thinking=opened).parse(text)
    assert parsed.reasoning == text[: parsed.call_start]
    assert text.startswith(parsed.call or "", parsed.call_start)
    assert parsed.has_call == bool(parsed.call)
    assert (parsed.error is None) == (len(parsed.codes) > 0 or not parsed.has_call)
    assert (parsed.code is None) == (parsed.codes == ())


@every_format
@pytest.mark.parametrize("strict", [True, False])
@calm
@given(code=programs, data=st.data())
def test_no_part_of_a_program_is_read_from_a_call_that_breaks_off(name, strict, code, data):
    format = make_format(name, strict=strict)
    text = rendered(format, code)
    broken = text[: data.draw(st.integers(0, len(text)))]
    assert format.parse(broken).code in (None, code)


@pytest.mark.parametrize("name", ["hermes", "llama3", "harmony"])
@calm
@given(code=programs.filter(lambda code: not re.search(r"\\|\{['\"]", code)))
def test_a_program_whose_quotation_marks_are_not_escaped_is_read_whole_or_not_at_all(name, code):
    text = make_format(name).render(code).replace('\\"', '"')
    assert make_format(name, strict=False).parse(text).code in (None, code)


LEADS = {
    "hermes": ["", "I run it.\n", "<think>hm</think>\n"],
    "qwen3-coder": ["", "I run it.\n\n", "<think>hm</think>"],
    "llama3": ["", "I run it: ", '{"name": "Bob"} is no call. '],
    "harmony": ["", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant", "I run it. "],
    "fenced": ["", "I run it:\n\n", "```\nno call\n```\n"],
}


@every_format
@calm
@given(data=st.data(), failed_code=programs, code=programs)
def test_a_spliced_turn_holds_the_new_call_behind_the_old_reasoning(name, data, failed_code, code):
    format = make_format(name)
    leads = st.sampled_from(LEADS[name])
    failed = data.draw(leads) + rendered(format, failed_code)
    corrected = data.draw(leads) + rendered(format, code)
    first, second = format.parse(failed), format.parse(corrected)
    result = splice(
        sampled(failed),
        first.call_start,
        sampled(corrected),
        second.call_start,
        similarity=SequenceMatcher(None, first.code, second.code).ratio(),
        gamma=0.0,
    )
    spliced = format.parse(result.completion)
    assert result.decision == "shallow"
    assert (spliced.reasoning, spliced.call) == (first.reasoning, second.call)
    assert spliced.code == code
    assert decode(result.completion.tokens.ids[:-1]) == result.completion


def test_a_tagged_program_and_an_object_may_be_spliced_into_each_other():
    format = make_format("llama3")
    tagged, written = "So: <|python_tag|>print(x)", format.render("print(1)")
    starts = [format.parse(text).call_start for text in (tagged, written)]
    result = splice(
        Completion(tagged), starts[0], Completion(written), starts[1], similarity=1.0, gamma=0.5
    )
    assert format.parse(result.completion).code == "print(1)"
    assert format.parse(result.completion).reasoning == "So: "
