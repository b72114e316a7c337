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
from cleaner_env.chat.purified import preference_rows, sft_row, worth_imitating, write_rows

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
    "preference_rows",
    "read_answer",
    "sent_messages",
    "sft_row",
    "tools_schema",
    "turn_text",
    "worth_imitating",
    "write_rows",
]
