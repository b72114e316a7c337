"""Checks of text and tokens: chat template, round trips, tool format, what will be trained."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import jinja2

from cleaner_env.formats import FORMATS, HermesFormat, make_format
from cleaner_env.formats.protocol import TOOL_NAME, TOOL_SCHEMA
from cleaner_env.interpreter import Limits, Sandbox
from cleaner_rl.doctor.preview import Preview, preview, scripted_episode
from cleaner_rl.doctor.subject import Finding, Subject
from cleaner_rl.models.policy import decoder
from cleaner_rl.rollout.environment import make_env
from cleaner_rl.settings import EpisodeConfig

_PROGRAM = 'import math\n\tprint(math.gcd(12, 18), "é", {"a": [1, 2]})  # ok\n'
_ONE_CALL = "print(6 * 7)"
_CALL = HermesFormat().render(_ONE_CALL)
_QUESTION = {"role": "user", "content": "What is 6 * 7?"}
_CONVERSATIONS: dict[str, list[dict[str, str]]] = {
    "turns without tools": [
        _QUESTION,
        {"role": "assistant", "content": "It is 42."},
        {"role": "user", "content": "And 6 * 8?"},
        {"role": "assistant", "content": "It is 48."},
    ],
    "tool calls": [
        _QUESTION,
        {"role": "assistant", "content": f"I compute it.\n{_CALL}"},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": f"Once more.\n{_CALL}"},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "It is 42."},
    ],
    "think blocks": [
        _QUESTION,
        {"role": "assistant", "content": f"<think>\nSix sevens.\n</think>\n\n{_CALL}"},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "<think>\nGood.\n</think>\n\nIt is 42."},
        {"role": "user", "content": "Thanks. And 6 * 8?"},
        {"role": "assistant", "content": "It is 48."},
    ],
}
_RANDOM_TEXTS = 200
_ALPHABETS = ((0x20, 0x7F), (0x80, 0x250), (0x370, 0x600), (0x3040, 0x30FF), (0x1F300, 0x1FAFF))
"""Printable ASCII, Latin with accents, Greek to Arabic, Japanese, emoji."""


def check_template(subject: Subject) -> Finding:
    """A longer conversation must not change how its beginning is rendered."""
    assert subject.codec, "raises what is wrong with the template"
    changes = {
        name: change
        for name, messages in _CONVERSATIONS.items()
        if (change := _prefix_change(subject.tokenizer, messages)) is not None
    }
    if not changes:
        return Finding("ok", "a growing conversation never changes what stands before")
    return Finding(
        "warning",
        "the template rewrites earlier text in: "
        + "; ".join(f"{name} ({change})" for name, change in changes.items()),
        "training is not affected, it never renders a conversation twice; but a server that is "
        "sent messages shows the model another history than the one it was trained on: serve it "
        "with a template that keeps earlier turns",
        changes,
    )


def _prefix_change(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str | None:
    """Where a longer conversation changes the rendering of a shorter one; None when nowhere."""
    before = ""
    for count in range(1, len(messages) + 1):
        spoken = messages[count - 1]["role"] == "assistant"
        try:
            text = _render(tokenizer, messages[:count], prompt=not spoken)
        except jinja2.TemplateError as error:
            return f"refused: {error}"
        if not text.startswith(before):
            place = next(
                (i for i, (a, b) in enumerate(zip(before, text, strict=False)) if a != b),
                min(len(before), len(text)),
            )
            return f"{before[place : place + 40]!r} became {text[place : place + 40]!r}"
        before = text
    return None


def _render(tokenizer: Any, messages: Sequence[Mapping[str, Any]], prompt: bool) -> str:
    text: str = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=prompt
    )
    return text


def check_round_trip(subject: Subject) -> Finding:
    """Text must survive encoding and decoding, and special tokens must be single tokens."""
    tokenizer, codec = subject.tokenizer, subject.codec
    decode = decoder(tokenizer)
    special = _special_tokens(tokenizer)
    for token in special:
        ids = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or decode(ids) != token:
            return Finding(
                "failed",
                f"the special token {token!r} is encoded as {ids}, which reads {decode(ids)!r}",
                "repair the tokenizer's added tokens; the end of a turn would not be seen",
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
            "use a byte-level tokenizer (Qwen, Llama 3, GPT-2 and their kin)",
        )
    lost = [text for text in _random_texts() if decode(codec.plain_ids(text)) != text]
    if lost:
        return Finding(
            "warning",
            f"{len(lost)} of {_RANDOM_TEXTS} random Unicode texts do not survive the tokenizer, "
            f"such as {lost[0]!r}",
            "programs' output will reach the model altered where it has such characters",
        )
    return Finding(
        "ok",
        f"{len(special)} special tokens, a program and {_RANDOM_TEXTS} random "
        "Unicode texts come back as they were",
    )


def _special_tokens(tokenizer: Any) -> list[str]:
    added = tokenizer.added_tokens_decoder.values()
    marked = [token.content for token in added if token.special]
    return list(dict.fromkeys([*tokenizer.all_special_tokens, *marked]))


def _random_texts() -> list[str]:
    generator = random.Random(0)
    texts = []
    for _ in range(_RANDOM_TEXTS):
        low, high = generator.choice(_ALPHABETS)
        letters = [chr(generator.randrange(low, high)) for _ in range(generator.randint(1, 20))]
        texts.append("".join(letters) + generator.choice(("", " ", "\n", "  x", "\t")))
    return texts


def check_format(subject: Subject) -> Finding:
    """The template's way to write a tool call must be one that the environment reads."""
    if subject.knows_tool:
        return Finding("ok", "the policy's cold start taught it the environment's format")
    try:
        written = _templates_call(subject.tokenizer)
    except (jinja2.TemplateError, TypeError) as error:
        written, reason = None, f"it refuses a message with tool calls: {error}"
    else:
        reason = "it ignores tool calls"
    if written is None or "6 * 7" not in written:
        return Finding(
            "warning",
            f"the chat template has no tool format of its own ({reason})",
            "the system prompt explains the environment's format (keep --system-prompt default); "
            "expect few calls from a model that was never trained on tools: give it a cold start",
        )
    reading = subject.format.name
    readers = [name for name in FORMATS if make_format(name).parse(written).code == _ONE_CALL]
    if reading in readers:
        return Finding("ok", f"the template writes calls in the format that is read: {reading}")
    shown = f"the template writes a call as {written.strip()[:120]!r}"
    if readers:
        return Finding(
            "failed",
            f"{shown}, and calls are read as {reading}",
            f"use --tool-format {readers[0]}",
        )
    return Finding(
        "failed",
        f"{shown}, which none of {sorted(FORMATS)} reads; the model's calls would count as "
        "answers, without a warning",
        "use a model of one of these formats, or train the format first",
    )


def _templates_call(tokenizer: Any) -> str | None:
    """What the template makes of an assistant's message with a call; None when it drops it."""
    call = {"name": TOOL_NAME, "arguments": {"code": _ONE_CALL}}
    message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call00001", "type": "function", "function": call}],
    }

    def render(messages: list[dict[str, Any]], prompt: bool) -> str:
        text: str = tokenizer.apply_chat_template(
            messages, tools=[TOOL_SCHEMA], tokenize=False, add_generation_prompt=prompt
        )
        return text

    question = render([_QUESTION], True)
    whole = render([_QUESTION, message], False)
    same = next((i for i, (a, b) in enumerate(zip(question, whole, strict=False)) if a != b), None)
    return whole[len(question) if same is None else same :] or None


def check_trained_tokens(subject: Subject) -> Finding:
    """The loss must count what the policy wrote, all of it and nothing else."""
    shown = episode_preview(subject)
    episode, segments = shown.episode, shown.segments
    (record,) = episode.rollbacks
    trained = "".join(segment.text for segment in segments if segment.trained)
    wanted = "".join(
        decoder(subject.tokenizer)(turn.completion.tokens.ids)
        for turn in episode.turns
        if turn.completion.tokens is not None
    )
    counts = {kind: shown.count(kind) for kind in ("environment", "sampled", "grafted")}
    details = {**counts, "segments": [asdict(segment) for segment in segments]}
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    if subject.config.grafted == "recompute" and trained != wanted:
        return Finding(
            "failed",
            f"the loss would count {trained!r}, but the policy wrote {wanted!r}",
            "report this, with the output of --json",
            details,
        )
    if record.decision != "shallow":
        return Finding(
            "warning",
            f"{told}; the splice could not keep the reasoning: no token boundary where the call "
            "begins",
            "every splice will be deep with this tokenizer",
            details,
        )
    return Finding("ok", f"{told} tokens of the scripted episode below", details=details)


def episode_preview(subject: Subject) -> Preview:
    """The scripted episode in this model's tokens, with the run's credit rule."""
    config, codec = subject.config, subject.codec
    decode = decoder(subject.tokenizer)
    rollout = EpisodeConfig(system_prompt=config.episode.system_prompt)
    # The scripted programs are ours: they may run wherever programs can be run at all.
    with Sandbox(limits=Limits(), allow_weak=True) as sandbox:
        env = make_env(rollout, sandbox, subject.format, knows_tool=subject.knows_tool)
        episode = scripted_episode(
            env, subject.tokenizer, codec.stop_ids[0], decode, subject.format
        )
    return preview(episode, codec, decode, config.credit, config.grafted)
