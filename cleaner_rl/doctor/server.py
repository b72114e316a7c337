"""Checks of a model on a server: that it answers and calls, and takes back what it called."""

from __future__ import annotations

import time
from asyncio import run
from collections.abc import Mapping

from cleaner_env.chat.client import RequestFailed
from cleaner_env.chat.messages import Answer
from cleaner_env.formats import FORMATS, make_format
from cleaner_env.formats.protocol import system_prompt
from cleaner_env.formats.thoughts import THOUGHT_END
from cleaner_rl.doctor.preview import BUG, TASK
from cleaner_rl.doctor.subject import Finding, Subject
from cleaner_rl.rollout.endpoint import EndpointRollout

_QUESTION = {"role": "user", "content": f"{TASK.prompt} Let a program compute it first."}
_OUTPUT = {"role": "tool", "content": "NameError: name 'seven' is not defined"}


def _rollout(subject: Subject) -> EndpointRollout:
    config = subject.config
    return EndpointRollout(subject.doctor.server, config.model, config.episode)


def _ask(rollout: EndpointRollout, *messages: Mapping[str, str]) -> Answer:
    """The model's answer to a conversation that begins as an episode does."""
    rules = rollout.config
    system = {"role": "system", "content": system_prompt(rollout.format, rules.stateful)}
    opening = [] if rules.system_prompt == "none" else [system]

    async def once() -> Answer:
        async with rollout.client:
            return await rollout.ask([*opening, *messages], rules.max_turn_tokens, 0)

    return run(once())


def check_answer(subject: Subject) -> Finding:
    """The model must answer with a call that is read, and the server should count its tokens."""
    began, rollout = time.perf_counter(), _rollout(subject)
    turn, usage, message = _ask(rollout, _QUESTION)
    text = f"it answered in {time.perf_counter() - began:.1f} s"
    if THOUGHT_END.search(turn):
        own_field = not THOUGHT_END.search(str(message.get("content")))
        text += ", with a thought in " + ("a field of its own" if own_field else "the text")
    parsed, limit = rollout.format.parse(turn), rollout.config.max_turn_tokens
    if parsed.code is not None:
        name = rollout.format.name
        by = "parsed by the server" if message.get("tool_calls") else f"read as {name}"
        text += f"; its call is {by}"
        if usage.estimated_tokens:
            remedy = "--max-response-tokens limits an estimate: four characters to a token"
            return Finding("warning", f"{text}; the server counts no tokens", remedy)
        return Finding("ok", text)
    text += f"; no call can be read in {turn[:200]!r}" + f" ({parsed.error})" * bool(parsed.error)
    readers = [name for name in FORMATS if make_format(name).parse(turn).code is not None]
    if readers:
        return Finding("failed", text, f"use --tool-format {readers[0]}")
    if turn.truncated:
        return Finding("warning", text, f"the turn was cut: raise --max-turn-tokens from {limit}")
    return Finding("warning", text, "if the server can parse tool calls, add --endpoint-tools")


def check_conversation(subject: Subject) -> Finding:
    """The server must take back a call and what it printed, which some chat templates refuse."""
    rollout = _rollout(subject)
    call = rollout.format.render(BUG)
    try:
        _ask(rollout, _QUESTION, {"role": "assistant", "content": call}, _OUTPUT)
    except RequestFailed as error:
        remedy = "try the other --tool-role (tool, user), or --endpoint-tools"
        return Finding("failed", f"it does not take back a call and its output: {error}", remedy)
    return Finding("ok", "it takes back a call and its output")
