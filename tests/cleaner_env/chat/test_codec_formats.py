"""The chat codec with templates of several model families: stop tokens, quoting, thinking.

Conversations are spelled out as text. ``^`` stands where sampled ids meet the codec's.
"""

import pytest
import templates

from cleaner_env import make_format
from cleaner_env.chat import ChatCodec
from cleaner_rl.sft.tokenizer import train_tokenizer

CORPUS = ["What is 3 + 4? The answer is \\boxed{7}.", "import math\nprint(math.gcd(6, 4))"] * 4
QUESTION = [{"role": "user", "content": "What is 3 + 4?"}]


def tokenizer_with(template, tokens=(), eos="<|im_end|>"):
    tokenizer = train_tokenizer(CORPUS, 320)
    # As the published tokenizers have it: special tokens that all_special_tokens does not list.
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    tokenizer.eos_token = eos
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module")
def llama3():
    return tokenizer_with(templates.LLAMA3, templates.LLAMA3_TOKENS, "<|eot_id|>")


@pytest.fixture(scope="module")
def harmony():
    return tokenizer_with(templates.HARMONY, templates.HARMONY_TOKENS, "<|return|>")


def ids_of(tokenizer, *tokens):
    return [tokenizer.convert_tokens_to_ids(token) for token in tokens]


def test_calls_of_llama_may_end_with_either_token(llama3):
    codec = ChatCodec(llama3)
    eot, eom = ids_of(llama3, "<|eot_id|>", "<|eom_id|>")
    assert {eot, eom} <= set(codec.stop_ids)
    expected = '^<|start_header_id|>ipython<|end_header_id|>\n\n"7"<|eot_id|>'
    for stop in (eot, eom):
        assert ("^" + llama3.decode(codec.observation_ids("7", stop))).startswith(expected)


def test_a_llama_turn_that_was_cut_off_is_closed(llama3):
    codec = ChatCodec(llama3)
    assert llama3.decode(codec.observation_ids("7")).startswith("<|eot_id|><|start_header_id|>")


def test_a_tools_words_are_quoted_where_the_template_quotes_them(llama3, tokenizer):
    words = 'a "b"\n\\c é'
    quoted = r"a \"b\"\n\\c é"
    assert f'"{quoted}"<|eot_id|>' in llama3.decode(ChatCodec(llama3).observation_ids(words))
    assert words in tokenizer.decode(ChatCodec(tokenizer).observation_ids(words))


def test_a_call_of_harmony_ends_the_turn_and_is_answered(harmony):
    codec = ChatCodec(harmony)
    call, final = ids_of(harmony, "<|call|>", "<|return|>")
    assert {call, final} <= set(codec.stop_ids)
    assert harmony.decode(codec.observation_ids("7", call)) == (
        "<|start|>functions.code_interpreter to=assistant<|channel|>commentary<|message|>"
        '"7"<|end|><|start|>assistant'
    )


def test_the_end_of_a_message_is_not_the_end_of_a_harmony_turn(harmony):
    assert not set(ids_of(harmony, "<|end|>")) & set(ChatCodec(harmony).stop_ids)


@pytest.mark.parametrize("family", ["llama3", "harmony"])
def test_a_conversation_grows_and_spells_what_the_template_renders(family, request):
    tokenizer = request.getfixturevalue(family)
    codec = ChatCodec(tokenizer)
    turn = make_format(family).render("print(3 + 4)")
    stop = {"llama3": "<|eot_id|>", "harmony": "<|call|>"}[family]
    ids = [
        *codec.prompt_ids(QUESTION),
        *tokenizer(turn + stop, add_special_tokens=False)["input_ids"],
        *codec.observation_ids('7 "\n', *ids_of(tokenizer, stop)),
    ]
    call = {"name": "code_interpreter", "arguments": {"code": "print(3 + 4)"}}
    assistant = {
        "llama3": {"role": "assistant", "content": turn},
        "harmony": {"role": "assistant", "tool_calls": [{"function": call}]},
    }[family]
    messages = [*QUESTION, assistant, {"role": "tool", "content": '7 "\n'}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # The model names the recipient behind the channel, the template before it.
    both = (
        " to=functions.code_interpreter<|channel|>commentary json<|message|>",
        "<|channel|>commentary to=functions.code_interpreter <|constrain|>json<|message|>",
    )
    assert tokenizer.decode(ids) == rendered.replace(*both)


def test_a_prompt_that_opens_a_thought_is_known_and_passed_on():
    codec = ChatCodec(tokenizer_with(templates.QWEN3_CODER_THINKING))
    assert codec.opens_thinking
    format = codec.make_format()
    draft = format.render("draft")
    assert not format.parse(f"{draft}</think>The answer is 7.").has_call
    assert not ChatCodec(tokenizer_with(templates.QWEN3_CODER)).opens_thinking


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("deepseek_r1_distill", ("at the first turn",)),
        ("qwen3_5_think", ("at the first turn", "after a program's output")),
        ("qwen3_5_nothink", ()),
        ("qwen3", ()),
    ],
)
def test_every_place_where_a_prompt_opens_a_thought_is_known(name, places):
    codec = ChatCodec(tokenizer_with(templates.published(name)))
    assert codec.thinking_places == places
    format = codec.make_format()
    assert format.opened_thinking == bool(places)
    draft = f"I could send {format.render('draft()')}, but it is clear.\n</think>\n\n"
    assert not format.parse(draft + "It is 1.").has_call
    assert format.parse(draft + format.render("print(1)")).code == "print(1)"


def test_a_template_of_mistral_gets_the_id_that_it_wants():
    tokenizer = tokenizer_with(templates.MISTRAL, templates.MISTRAL_TOKENS, "</s>")
    codec = ChatCodec(tokenizer)
    assert (codec.tool_role, codec.notes) == ("tool", [])
    answered = tokenizer.decode(codec.observation_ids("7", tokenizer.eos_token_id))
    assert answered == '[TOOL_RESULTS] {"content": 7, "call_id": "call00001"}[/TOOL_RESULTS]'


def test_a_special_token_that_ends_a_turn_stops_it_even_if_it_is_not_eos():
    tokenizer = tokenizer_with(templates.CHATML.replace("im_", "turn_"), ["<|turn_end|>"], "</s>")
    (end,) = ids_of(tokenizer, "<|turn_end|>")
    assert end in ChatCodec(tokenizer).stop_ids


@pytest.mark.parametrize(
    ("template", "expected"),
    [(templates.HERMES, "hermes"), (templates.QWEN3_CODER, "qwen3-coder")],
)
def test_auto_goes_by_the_template_without_a_warning(template, expected):
    codec = ChatCodec(tokenizer_with(template))
    assert codec.make_format("auto").name == expected
    assert codec.format_warning("auto") is None


def test_auto_falls_back_with_a_warning_that_names_the_option():
    codec = ChatCodec(tokenizer_with(templates.CHATML))
    assert codec.make_format("auto").name == "hermes"
    assert "--tool-format" in codec.format_warning("auto")


def test_a_choice_against_the_template_gets_a_warning():
    codec = ChatCodec(tokenizer_with(templates.QWEN3_CODER))
    assert "--tool-format qwen3-coder" in codec.format_warning("hermes")
    assert codec.format_warning("qwen3-coder") is None
    assert codec.format_warning("fenced") is None


def test_an_impossible_choice_is_refused(tokenizer):
    with pytest.raises(ValueError, match="unknown tool-call format"):
        ChatCodec(tokenizer).make_format("xml")


@pytest.mark.parametrize(
    ("name", "tokens", "eos", "call_end"),
    [
        ("llama3_1", templates.LLAMA3_TOKENS, "<|eot_id|>", "<|eom_id|>"),
        ("llama3_2", templates.LLAMA3_TOKENS, "<|eot_id|>", "<|eot_id|>"),
        ("gptoss", templates.HARMONY_TOKENS, "<|return|>", "<|call|>"),
        ("qwen3", (), "<|im_end|>", "<|im_end|>"),
        ("qwen3_5_think", (), "<|im_end|>", "<|im_end|>"),
        ("nemotron_3_nano", (), "<|im_end|>", "<|im_end|>"),
    ],
)
def test_published_templates_serve_a_conversation_with_the_tool(name, tokens, eos, call_end):
    template = templates.published(name)
    tokenizer = tokenizer_with(template, tokens, eos)
    codec = ChatCodec(tokenizer)
    assert codec.format_warning() is None
    (stop,) = ids_of(tokenizer, call_end)
    assert stop in codec.stop_ids
    answered = tokenizer.decode(codec.observation_ids("7", stop))
    assert "7" in answered
    assert stop not in codec.observation_ids("7", stop)[:1]
    prompt = tokenizer.decode(codec.prompt_ids(QUESTION))
    assert answered[-12:] == prompt[-12:]
    assert codec.opens_thinking == prompt.endswith("<think>\n")


@pytest.mark.parametrize("name", templates.published_names())
def test_every_published_template_shows_instructions_and_output(name):
    """benchmarks/templates.py plays whole episodes with them."""
    tokenizer = tokenizer_with(templates.published(name), ["<s>", "</s>"], "</s>")
    tokenizer.bos_token = "<s>"
    codec = ChatCodec(tokenizer)
    rules = {"role": "system", "content": "Use the tool."}
    prompt = tokenizer.decode(codec.prompt_ids([rules, *QUESTION]))
    assert "Use the tool." in prompt and "What is 3 + 4?" in prompt
    assert "42 km" in tokenizer.decode(codec.observation_ids("42 km"))
