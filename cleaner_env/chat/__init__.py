"""Conversations as models take them: a chat template (``codec``) or a server (``messages``,
``client``)."""

from cleaner_env.chat.codec import ChatCodec, TemplateError, ToolRole

__all__ = ["ChatCodec", "TemplateError", "ToolRole"]
