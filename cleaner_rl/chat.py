"""ChatCodec: a chat template taken apart, so that a growing conversation is never encoded twice."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

import jinja2

from cleaner_rl.errors import TemplateError

_ANSWER = "\ue000answer\ue000"
_RESULT = "\ue000result\ue000"


class ChatCodec:
    """Token ids of prompts and of what the environment says between two assistant turns.

    The ids of a conversation are ``prompt_ids(messages)``, then for every turn the ids that the
    policy sampled, as they were sampled, and ``observation_ids`` of the tool's answer. Text from
    programs is encoded without special tokens, so no program can forge the end of a turn.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        stop_ids: ids that end a turn besides the template's own.

    Raises:
        TemplateError: there is no template, or it does not render a tool's answer.
    """

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        # Encoding without special tokens switches a flag of the tokenizer that all threads share.
        self._lock = Lock()
        if not tokenizer.chat_template:
            raise TemplateError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; "
                "use an instruct model, or add a chat_template.jinja to its directory"
            )
        before, after = self._between_turns()
        self._before_ids, self._after_ids = self._special(before), self._special(after)
        self.stop_ids = tuple(dict.fromkeys([*self._stop_ids(), *stop_ids]))

    def _between_turns(self) -> tuple[str, str]:
        """The template's text between an assistant's words and a tool's, and from there on."""
        messages = [
            {"role": "user", "content": "question"},
            {"role": "assistant", "content": _ANSWER},
            {"role": "tool", "content": _RESULT},
        ]
        text = self._render(messages)
        if text.count(_ANSWER) != 1 or text.count(_RESULT) != 1:
            raise TemplateError(
                f"the chat template of {self.tokenizer.name_or_path!r} drops or repeats messages "
                "of the assistant or the tool; multi-turn tool use needs a template that shows both"
            )
        between = text.split(_ANSWER)[1]
        before, after = between.split(_RESULT)
        return before, after

    def _stop_ids(self) -> tuple[int, ...]:
        """The ids that end an assistant's turn: the template's own mark, and the model's eos."""
        ids = [self.tokenizer.eos_token_id]
        mark = self._before_ids[:1]
        if mark and self.tokenizer.decode(mark).strip() in self.tokenizer.all_special_tokens:
            ids = [*mark, *ids]
        unique = tuple(dict.fromkeys(i for i in ids if i is not None))
        if not unique:
            raise TemplateError(
                f"the tokenizer of {self.tokenizer.name_or_path!r} has neither an eos token nor a "
                "special token that ends a turn; set eos_token in its configuration"
            )
        return unique

    def _render(self, messages: Sequence[dict[str, str]]) -> str:
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
        """Ids of the template's own text, in which special tokens count."""
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
            stop_id: the token that the policy ended its turn with; the template's end of turn is
                added where that token is another one or none.
        """
        before = self._before_ids
        if stop_id is not None and before[:1] == [stop_id]:
            before = before[1:]
        return [*before, *self.plain_ids(text), *self._after_ids]
