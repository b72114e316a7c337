"""OpenAI's chat messages: the conversation as its clients send it, their answers as actions.

No client is needed here: its objects and plain dicts will both do.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from cleaner_env.chat.messages import ServerFormat, sent_messages, turn_text
from cleaner_env.completion import Completion
from cleaner_env.formats.protocol import TOOL_SCHEMA
from cleaner_env.formats.thoughts import THOUGHT, THOUGHT_END, thought_end

_MOST_CALLS = 1000
"""Calls of a turn that are told apart, also where the environment refuses more than one."""


def tools_schema() -> list[dict[str, Any]]:
    """The request's ``tools``: the interpreter."""
    return [copy.deepcopy(TOOL_SCHEMA)]


def openai_messages(
    info: Mapping[str, Any] | Sequence[Mapping[str, str]], *, reasoning_field: str | None = None
) -> list[dict[str, Any]]:
    """The request's ``messages``: what the agent must be shown next.

    Calls are ``tool_calls`` with ids, to which the results refer. The ids are made anew for each
    request, because a splice may have replaced the call to which the server gave one. Of parallel
    calls, the last result has the output of all. A call that is not valid JSON stays text, and the
    user's message says what is wrong with it: results refer to calls.

    Args:
        info: from ``reset`` or ``step``, or its ``messages``.
        reasoning_field: where the server wants the thoughts of earlier turns, for example
            ``"reasoning_content"``; None leaves them in the text, between ``<think>`` marks.
    """
    messages = info["messages"] if isinstance(info, Mapping) else info
    sent = sent_messages(messages, ServerFormat(max_calls=_MOST_CALLS))
    if reasoning_field is not None:
        for message in sent:
            if message["role"] == "assistant":
                _move_thought(message, reasoning_field)
    return sent


def _move_thought(message: dict[str, Any], field: str) -> None:
    """Move the thought with which an assistant's text begins to a field of its own."""
    text = message["content"]
    end = thought_end(text, False, ()) or 0
    if end:
        message[field] = THOUGHT.sub("", THOUGHT_END.sub("", text[:end])).strip()
        message["content"] = text[end:].strip()


def action_from_openai(answer: Any) -> Completion:
    """The action in the server's answer: the first of its ``choices``, a choice, or a message.

    Thoughts (``reasoning_content``, ``reasoning``) stand before the text, between ``<think>``
    marks, and calls after it. A choice that a length limit ended is ``truncated``.

    Raises:
        ValueError: this is no answer of an assistant.
    """
    data = answer.model_dump() if hasattr(answer, "model_dump") else answer
    try:
        choice = data["choices"][0] if "choices" in data else data
        message = choice.get("message", choice)
        if message.get("role", "assistant") != "assistant":
            raise TypeError(f"its role is {message['role']!r}")
        text = turn_text(message, ServerFormat())
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"neither a chat completion nor a message of the assistant ({error}): {answer!r}"
        ) from error
    return Completion(text, truncated=choice.get("finish_reason") == "length")
