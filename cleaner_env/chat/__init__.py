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

__all__ = [
    "Answer",
    "ChatCodec",
    "ChatError",
    "ServerFormat",
    "TemplateError",
    "ToolRole",
    "Usage",
    "read_answer",
    "sent_messages",
    "turn_text",
]
