"""Conversations as models take them: a chat template (``codec``) or a server (``messages``,
``client``)."""

from cleaner_env.chat.codec import ChatCodec, TemplateError, ToolRole
from cleaner_env.chat.messages import (
    Answer,
    ChatError,
    ServerFormat,
    Usage,
    read_answer,
    sent_messages,
    turn_text,
)
from cleaner_env.chat.openai import action_from_openai, openai_messages, tools_schema

__all__ = [
    "Answer",
    "ChatCodec",
    "ChatError",
    "ServerFormat",
    "TemplateError",
    "ToolRole",
    "Usage",
    "action_from_openai",
    "openai_messages",
    "read_answer",
    "sent_messages",
    "tools_schema",
    "turn_text",
]
