"""ChatCodec: a chat template taken apart, so that a growing conversation is never encoded twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_ANSWER = "\ue000answer\ue000"
_RESULT = "\ue000result\ue000"


class TemplateError(ValueError):
    """The tokenizer's chat template cannot serve a multi-turn conversation with a tool."""


class ChatCodec:
    """Token ids of prompts and of what the environment says between two assistant turns.

    The ids of a conversation are ``prompt_ids(messages)``, then for every turn the ids that the
    policy sampled, as they were sampled, and ``observation_ids`` of the tool's answer. Text from
    programs is encoded without special tokens, so no program can forge the end of a turn.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.

    Raises:
        TemplateError: there is no template, or it does not render a tool's answer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise TemplateError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; "
                "use an instruct model, or add a chat_template.jinja to its directory"
            )
        self._before, self._after = self._between_turns()
        self.stop_ids = self._stop_ids()

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
        mark = self._special(self._before)[:1]
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
        text: str = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        return text

    def _special(self, text: str) -> list[int]:
        """Ids of the template's own text, in which special tokens count."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _plain(self, text: str) -> list[int]:
        """Ids of foreign text, in which special tokens are ordinary characters."""
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
        before = self._special(self._before)
        if stop_id is not None and before[:1] == [stop_id]:
            before = before[1:]
        return [*before, *self._plain(text), *self._special(self._after)]
