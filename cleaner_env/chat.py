"""ChatCodec: a chat template split into parts, so that growing conversations are encoded once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from threading import Lock
from typing import Any

import jinja2

from cleaner_env.formats import FORMATS, TextFormat, choose_format, make_format
from cleaner_env.formats.protocol import TOOL_NAME

_ANSWER = "\ue000answer\ue000"
_RESULT = '\ue000"result"\ue000'
_FALLBACK = "hermes"
"""Format for templates that show no format."""


class TemplateError(ValueError):
    """A tokenizer's chat template cannot serve a multi-turn conversation with a tool."""


class ChatCodec:
    """Token ids of prompts and of the environment's text between two assistant turns.

    The ids of a conversation are ``prompt_ids(messages)``, then for every turn the ids exactly as
    the policy sampled them, and ``observation_ids`` of the tool's answer. The output of programs is
    encoded without special tokens, so no program can forge the end of a turn.

    Attributes:
        tool_format: name of the tool-call format that the template shows; None if it shows none.
        opens_thinking: True if the template begins the assistant's turn inside a think block.
        stop_ids: ids that end a turn: the template's end of turn, the tool-call format's end of a
            call (Llama's ``<|eom_id|>``, harmony's ``<|call|>``), eos, and ``stop_ids``.

    Raises:
        TemplateError: there is no template, or it does not render a tool's answer.
    """

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        # Encoding without special tokens sets a flag of the tokenizer that all threads share.
        self._lock = Lock()
        if not tokenizer.chat_template:
            raise TemplateError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; "
                "use an instruct model, or add a chat_template.jinja to its directory"
            )
        self.tool_format = choose_format(_source(tokenizer.chat_template))
        self._call_ends = self._call_end_ids()
        before, after, self._quotes_results = self._between_turns()
        self.opens_thinking = after.rfind("<think>") > after.rfind("</think>")
        self._before_ids, self._after_ids = self._special(before), self._special(after)
        self.stop_ids = tuple(dict.fromkeys([*self._stop_ids(), *stop_ids]))

    def make_format(
        self, wanted: str = "auto", *, max_calls: int = 1, strict: bool = True
    ) -> TextFormat:
        """The tool-call format in which this model's turns are read; see ``formats.make_format``.

        ``"auto"`` means the format that the template shows, or hermes if it shows none.
        """
        name = wanted if wanted != "auto" else self.tool_format or _FALLBACK
        return make_format(
            name, max_calls=max_calls, strict=strict, opened_thinking=self.opens_thinking
        )

    def format_warning(self, wanted: str = "auto") -> str | None:
        """Why the model may write calls that nobody reads; None if there is no sign of that."""
        template = f"the chat template of {self.tokenizer.name_or_path!r}"
        if wanted == "auto" and self.tool_format is None:
            return (
                f"{template} shows none of the tool-call formats {', '.join(FORMATS)}; calls are "
                f"read as {_FALLBACK}, which only a system prompt can tell the model. A model that "
                "writes calls in another format makes none that count, and earns no reward. Choose "
                "a format with --tool-format, and look at the calls of the first episodes"
            )
        if wanted not in ("auto", "fenced", self.tool_format) and self.tool_format is not None:
            return (
                f"{template} writes calls as {self.tool_format}, but they are read as {wanted}: a "
                f"model that follows its template may make no calls and earn no reward. Use "
                f"--tool-format {self.tool_format} unless the model was trained on {wanted}"
            )
        return None

    def _call_end_ids(self) -> tuple[int, ...]:
        """The ids that may end a turn after a call, by the template's tool-call format."""
        if self.tool_format is None:
            return ()
        known = self.tokenizer.get_added_vocab()
        tokens = FORMATS[self.tool_format].stop_tokens
        return tuple(known[token] for token in tokens if token in known)

    def _between_turns(self) -> tuple[str, str, bool]:
        """The template's text between an assistant's message and a tool's, and its text after that.

        The third value is True if the template writes the tool's message as a JSON string.
        """
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": "question"},
            {"role": "assistant", "content": _ANSWER},
            {"role": "tool", "content": _RESULT},
        ]
        if self.tool_format == "harmony":
            # These templates accept a tool's answer only after a message with a structured call.
            call = {"name": TOOL_NAME, "arguments": {"code": _ANSWER}}
            messages[1] = {"role": "assistant", "tool_calls": [{"function": call}]}
        text = self._render(messages)
        result = next((r for r in (_RESULT, _quoted(_RESULT)) if text.count(r) == 1), None)
        if text.count(_ANSWER) != 1 or result is None:
            raise TemplateError(
                f"the chat template of {self.tokenizer.name_or_path!r} drops or repeats messages "
                "of the assistant or the tool; multi-turn tool use needs a template that shows both"
            )
        between = text.split(_ANSWER)[1]
        before, after = between.split(result)
        if self.tool_format == "harmony":
            before = before[before.index("<|call|>") :]
        return before, after, result != _RESULT

    def _stop_ids(self) -> tuple[int, ...]:
        """The ids that end an assistant's turn: the template's own mark, and the model's eos."""
        ids = [self.tokenizer.eos_token_id]
        mark = self._before_ids[:1]
        if mark and self.tokenizer.decode(mark).strip() in self.tokenizer.all_special_tokens:
            ids = [*mark, *ids]
        ids += self._call_ends
        unique = tuple(dict.fromkeys(i for i in ids if i is not None))
        if not unique:
            raise TemplateError(
                f"the tokenizer of {self.tokenizer.name_or_path!r} has neither an eos token nor a "
                "special token that ends a turn; set eos_token in its configuration"
            )
        return unique

    def _render(self, messages: Sequence[dict[str, Any]]) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        except jinja2.TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise TemplateError(
                f"the chat template of {self.tokenizer.name_or_path!r} refuses a conversation of "
                f"{roles}: {error}; use a model whose template knows tools, or --system-prompt none"
            ) from error
        return text

    def _special(self, text: str) -> list[int]:
        """Ids of the template's own text, in which special tokens are special."""
        with self._lock:
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def plain_ids(self, text: str) -> list[int]:
        """Ids of foreign text, in which special tokens are ordinary characters."""
        with self._lock:
            encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
            return list(encoded["input_ids"])

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of the messages before the first turn of the assistant, ready for its answer."""
        return self._special(self._render(messages))

    def observation_ids(self, text: str, stop_id: int | None = None) -> list[int]:
        """Ids that follow an assistant's turn: its end, the tool's answer, the next turn's start.

        Args:
            text: the tool's answer.
            stop_id: the token with which the policy ended its turn. The template's end of turn is
                added unless that token is the same one, or one that ends a call.
        """
        before = self._before_ids
        if stop_id is not None and (before[:1] == [stop_id] or stop_id in self._call_ends):
            before = before[1:]
        text = _quoted(text) if self._quotes_results else text
        return [*before, *self.plain_ids(text), *self._after_ids]


def _source(chat_template: str | dict[str, str]) -> str:
    """The template's text; a tokenizer may have several by name."""
    return chat_template if isinstance(chat_template, str) else "\n".join(chat_template.values())


def _quoted(text: str) -> str:
    """The text as it appears inside a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
