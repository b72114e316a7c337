"""Checks of text and tokens: chat template, round trips, tool format."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from cleaner_env.formats import FORMATS, HermesFormat, make_format
from cleaner_env.formats.protocol import TOOL_NAME, TOOL_SCHEMA
from cleaner_rl.doctor.subject import Finding, Subject

_PROGRAM = 'import math\n\tprint(math.gcd(12, 18), "é", {"a": [1, 2]})  # ok\n'
_ONE_CALL = "print(6 * 7)"
_CALL = HermesFormat().render(_ONE_CALL)


def _assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


_QUESTION, _MORE = ({"role": "user", "content": f"What is 6 * {n}?"} for n in (7, 8))
_OUTPUT = {"role": "tool", "content": "42"}
_ANSWER, _LAST = (_assistant(f"It is {n}.") for n in (42, 48))
_CONVERSATIONS = {
    "turns without tools": [_QUESTION, _ANSWER, _MORE, _LAST],
    "tool calls": [
        *(_QUESTION, _assistant(f"I compute it.\n{_CALL}"), _OUTPUT),
        *(_assistant(f"Once more.\n{_CALL}"), _OUTPUT, _ANSWER),
    ],
    "think blocks": [
        *(_QUESTION, _assistant(f"<think>\nSix sevens.\n</think>\n\n{_CALL}"), _OUTPUT),
        *(_assistant("<think>\nGood.\n</think>\n\nIt is 42."), _MORE, _LAST),
    ],
}
_RANDOM_TEXTS = 200
_ALPHABETS = ((0x20, 0x7F), (0x80, 0x250), (0x370, 0x600), (0x3040, 0x30FF), (0x1F300, 0x1FAFF))
"""Printable ASCII, Latin with accents, Greek to Arabic, Japanese, emoji."""


def check_template(subject: Subject) -> Finding:
    """A longer conversation must not change how its beginning is rendered."""
    codec = subject.codec
    notes = list(codec.notes)
    if codec.opens_thinking:
        notes.append(f"a prompt ends inside a thought {' and '.join(codec.thinking_places)}")
    output = codec.output_message(_OUTPUT["content"])
    changes = {
        name: change
        for name, turns in _CONVERSATIONS.items()
        if (change := _prefix_change(subject.tokenizer, turns, output)) is not None
    }
    if not changes:
        notes.append("a growing conversation never changes its earlier text")
        return Finding("warning" if codec.notes else "ok", "; ".join(notes))
    return Finding(
        "warning",
        "; ".join([*notes, "the template rewrites earlier text in: "])
        + "; ".join(f"{name} ({change})" for name, change in changes.items()),
        "training is not affected, because it never renders a conversation twice; but a server "
        "that is sent messages will show the model a different history than in training: serve it "
        "with a template that keeps earlier turns",
        changes,
    )


def _prefix_change(
    tokenizer: Any, turns: Sequence[Mapping[str, str]], output: Mapping[str, str]
) -> str | None:
    """Where a longer conversation, with a program's output as the template takes it, changes the
    rendering of a shorter one; None if nowhere."""
    messages = [output if turn is _OUTPUT else turn for turn in turns]
    before = ""
    for count, message in enumerate(messages, start=1):
        try:
            text = _render(tokenizer, messages[:count], prompt=message["role"] != "assistant")
        except jinja2.TemplateError as error:
            return f"refused: {error}"
        if not text.startswith(before):
            place = _shared(before, text)
            return f"{before[place : place + 40]!r} became {text[place : place + 40]!r}"
        before = text
    return None


def _shared(first: str, second: str) -> int:
    """The length of the longest common prefix."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _render(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], prompt: bool, tools: Any = None
) -> str:
    text: str = tokenizer.apply_chat_template(
        list(messages), tools=tools, tokenize=False, add_generation_prompt=prompt
    )
    return text


def check_round_trip(subject: Subject) -> Finding:
    """Text must survive encoding and decoding, and special tokens must be single tokens."""
    tokenizer, codec, decode = subject.tokenizer, subject.codec, subject.decode
    added = tokenizer.added_tokens_decoder.values()
    marked = [token.content for token in added if token.special]
    special = dict.fromkeys([*tokenizer.all_special_tokens, *marked])
    for token in special:
        ids = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or decode(ids) != token:
            return Finding(
                "failed",
                f"the special token {token!r} is encoded as {ids}; these decode to {decode(ids)!r}",
                "repair the tokenizer's added tokens; the end of a turn would not be noticed",
            )
        if ids[0] in codec.plain_ids(token):
            return Finding(
                "failed",
                f"a program that prints {token!r} would forge the special token",
                "use a fast tokenizer (tokenizers), which can encode special tokens as text",
            )
    if (found := decode(codec.plain_ids(_PROGRAM))) != _PROGRAM:
        return Finding(
            "failed",
            f"a program does not survive the tokenizer: {_PROGRAM!r} came back as {found!r}",
            "use a byte-level tokenizer (Qwen, Llama 3, GPT-2 and the like)",
        )
    lost = [text for text in _random_texts() if decode(codec.plain_ids(text)) != text]
    if lost:
        return Finding(
            "warning",
            f"{len(lost)} of {_RANDOM_TEXTS} random Unicode texts do not survive the tokenizer, "
            f"such as {lost[0]!r}",
            "program output with such characters will reach the model altered",
        )
    return Finding(
        "ok",
        f"{len(special)} special tokens, a program and {_RANDOM_TEXTS} random "
        "Unicode texts come back unchanged",
    )


def _random_texts() -> list[str]:
    generator = random.Random(0)
    texts = []
    for _ in range(_RANDOM_TEXTS):
        low, high = generator.choice(_ALPHABETS)
        letters = [chr(generator.randrange(low, high)) for _ in range(generator.randint(1, 20))]
        texts.append("".join(letters) + generator.choice(("", " ", "\n", "  x", "\t")))
    return texts


def check_format(subject: Subject) -> Finding:
    """The template must write tool calls in a format that the environment reads."""
    if subject.knows_tool:
        return Finding("ok", "the policy learned the environment's format in its cold start")
    reason = "it ignores tool calls"
    try:
        written = _written_call(subject.tokenizer)
    except (jinja2.TemplateError, TypeError) as error:
        written, reason = "", f"it refuses a message with tool calls: {error}"
    if "6 * 7" not in written:
        return Finding(
            "warning",
            f"the chat template has no tool format of its own ({reason})",
            "the system prompt explains the environment's format (keep --system-prompt default); "
            "a model that was never trained on tools will make few calls: give it a cold start",
        )
    reading = subject.format.name
    readers = [name for name in FORMATS if make_format(name).parse(written).code == _ONE_CALL]
    if reading in readers:
        return Finding("ok", f"calls are written and read in the same format: {reading}")
    text = f"the template writes a call as {written.strip()[:120]!r}"
    if readers:
        text += f", but calls are read as {reading}"
        return Finding("failed", text, f"use --tool-format {readers[0]}")
    return Finding(
        "failed" if subject.config.episode.tool_format == "auto" else "warning",
        f"{text}, which none of {sorted(FORMATS)} reads; calls are read as {reading}, and others "
        "count as answers",
        "use --tool-format fenced, which the system prompt explains",
    )


def _written_call(tokenizer: Any) -> str:
    """How the template renders a tool call of the assistant; empty if it drops the call."""
    call = {"name": TOOL_NAME, "arguments": {"code": _ONE_CALL}}
    message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call00001", "type": "function", "function": call}],
    }
    question = _render(tokenizer, [_QUESTION], prompt=True, tools=[TOOL_SCHEMA])
    whole = _render(tokenizer, [_QUESTION, message], prompt=False, tools=[TOOL_SCHEMA])
    return whole[_shared(question, whole) :]
