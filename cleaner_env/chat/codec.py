"""ChatCodec: a chat template split into parts, so that growing conversations are encoded once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock
from typing import Any, Literal

import jinja2

from cleaner_env.formats import FORMATS, TextFormat, choose_format, make_format
from cleaner_env.formats.protocol import TOOL_NAME
from cleaner_env.formats.thoughts import ends_in_thought

_ANSWER = "\ue000answer\ue000"
_RESULT = '\ue000"result"\ue000'
_RULES = "\ue000rules\ue000"
_FALLBACK = "hermes"
"""Format for templates that show no format."""
_OF_A_CALL = {"tool_call_id": "call00001", "name": TOOL_NAME}
"""What some templates want of a tool's message; Mistral's ids have nine letters and digits."""

_KEPT_TEXTS = 16384
"""Texts whose ids are kept: a prompt serves a whole group, an output all later turns of its
episode."""

ToolRole = Literal["auto", "tool", "user"]
"""Whose message a program's output is; auto means the tool's, if the template takes that."""


class TemplateError(ValueError):
    """A tokenizer's chat template cannot serve a multi-turn conversation with a tool."""


class ChatCodec:
    """Token ids of prompts and of the environment's text between two assistant turns.

    The ids of a conversation are ``prompt_ids(messages)``, then for every turn the ids exactly as
    the policy sampled them, and ``observation_ids`` of the tool's answer. The output of programs is
    encoded without special tokens, so no program can forge the end of a turn.

    Attributes:
        tool_format: name of the tool-call format that the template shows; None if it shows none.
        tool_role: whose message a program's output is, ``"tool"`` or ``"user"``.
        thinking_places: where the template begins the assistant's turn inside a think block: at the
            first turn, after a program's output, or both.
        opens_thinking: whether it does so anywhere.
        notes: what was done because the template does not take every message, for people.
        stop_ids: ids that end a turn: the template's end of turn, the tool-call format's end of a
            call (Llama's ``<|eom_id|>``, harmony's ``<|call|>``), eos, and ``stop_ids``.

    Raises:
        TemplateError: there is no template, or it renders a program's output neither as the tool's
            message nor as the user's, or not as ``tool_role`` demands.
    """

    def __init__(
        self, tokenizer: Any, stop_ids: Sequence[int] = (), tool_role: ToolRole = "auto"
    ) -> None:
        self.tokenizer = tokenizer
        # Encoding without special tokens sets a flag of the tokenizer that all threads share.
        self._lock = Lock()
        self._ids = lru_cache(_KEPT_TEXTS)(self._tokenize)
        if not tokenizer.chat_template:
            raise TemplateError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; "
                "use an instruct model, or add a chat_template.jinja to its directory"
            )
        self.tool_format = choose_format(_source(tokenizer.chat_template))
        ends = () if self.tool_format is None else FORMATS[self.tool_format].stop_tokens
        known = tokenizer.get_added_vocab()
        self._call_ends = tuple(known[token] for token in ends if token in known)
        self.notes: list[str] = []
        self._answer, (before, after, self._quotes_results) = self._choose_role(tool_role)
        self.tool_role = self._answer["role"]
        self._takes_rules = self._check_rules()
        first = self._render([{"role": "user", "content": _ANSWER}]).rpartition(_ANSWER)[2]
        places = {"at the first turn": first, "after a program's output": after}
        self.thinking_places = tuple(p for p, text in places.items() if ends_in_thought(text))
        self.opens_thinking = bool(self.thinking_places)
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
        template = self._template
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

    @property
    def _template(self) -> str:
        return f"the chat template of {self.tokenizer.name_or_path!r}"

    def _choose_role(self, wanted: ToolRole) -> tuple[dict[str, str], tuple[str, str, bool]]:
        """A message with a program's output, and what ``_between_turns`` gives for it."""
        found: dict[str, tuple[dict[str, str], tuple[str, str, bool]]] = {}
        reasons: dict[str, str] = {}
        tool, user = tool_message(_RESULT, "tool"), tool_message(_RESULT, "user")
        for message in (tool, tool | _OF_A_CALL, user):
            role = message["role"]
            if role not in found:
                try:
                    found[role] = message, self._between_turns(message)
                except TemplateError as error:
                    reasons.setdefault(role, str(error))
        if wanted == "auto" and "user" in found and "tool" not in found:
            self.notes.append(
                f"{reasons['tool']}. A program's output is sent as a message of the user, between "
                "<tool_response> tags"
            )
        role = next(iter(found), "tool") if wanted == "auto" else wanted
        if role in found:
            return found[role]
        remedy = f"use --tool-role {next(iter(found), 'user')}"
        if not found:
            remedy = "nor does it take the user's; use a model whose template takes one of them"
        raise TemplateError(f"{reasons[role]}; {remedy}")

    def _check_rules(self) -> bool:
        """Whether the template takes a system message; if not, ``prompt_ids`` puts its text before
        the question."""
        messages = [{"role": "system", "content": _RULES}, {"role": "user", "content": _ANSWER}]
        try:
            if _RULES in self._render(messages):
                return True
        except TemplateError:
            pass
        self.notes.append(
            f"{self._template} takes no system message; instructions, if any, stand before the "
            "question"
        )
        return False

    def _between_turns(self, answer: dict[str, Any]) -> tuple[str, str, bool]:
        """The template's text between an assistant's message and a program's output, and its text
        after that.

        The third value is True if the template writes the output as a JSON string.
        """
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": "question"},
            {"role": "assistant", "content": _ANSWER},
            answer,
        ]
        if self.tool_format == "harmony":
            # These templates accept a tool's answer only after a message with a structured call.
            call = {"name": TOOL_NAME, "arguments": {"code": _ANSWER}}
            messages[1] = {"role": "assistant", "tool_calls": [{"function": call}]}
        text = self._render(messages)
        result = next((r for r in (_RESULT, _quoted(_RESULT)) if text.count(r) == 1), None)
        if text.count(_ANSWER) != 1 or result is None:
            raise TemplateError(
                f"{self._template} drops or repeats messages of the assistant or the "
                f"{answer['role']}"
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
        added = self.tokenizer.added_tokens_decoder.get(mark[0]) if mark else None
        if added is not None and added.special and mark[0] not in self._call_ends:
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
                f"{self._template} refuses a conversation of {roles}: {error}"
            ) from error
        return text

    def _tokenize(self, text: str, plain: bool) -> tuple[int, ...]:
        with self._lock:
            encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=plain)
            return tuple(encoded["input_ids"])

    def _special(self, text: str) -> list[int]:
        """Ids of the template's own text, in which special tokens are special."""
        return list(self._ids(text, False))

    def plain_ids(self, text: str) -> list[int]:
        """Ids of foreign text, in which special tokens are ordinary characters."""
        return list(self._ids(text, True))

    def output_message(self, output: str) -> dict[str, str]:
        """A program's output as a message that the template takes."""
        return {**self._answer, "content": self._answer["content"].replace(_RESULT, output)}

    def decode(self, ids: Sequence[int]) -> str:
        """The exact text of token ids, special tokens included."""
        return decode(self.tokenizer, ids)

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of the messages before the first turn of the assistant, ready for its answer."""
        if not self._takes_rules and [message["role"] for message in messages[:1]] == ["system"]:
            rules, question, *rest = messages
            text = f"{rules['content']}\n\n{question['content']}"
            messages = [{**question, "content": text}, *rest]
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


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The exact text of token ids, special tokens included."""
    text: str = tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text


def tool_message(output: str, role: str) -> dict[str, str]:
    """A program's output as a message of the tool, or of the user, as the templates of the Qwen
    family write it."""
    if role == "user":
        output = f"<tool_response>\n{output}\n</tool_response>"
    return {"role": role, "content": output}


def _source(chat_template: str | dict[str, str]) -> str:
    """The template's text; a tokenizer may have several by name."""
    return chat_template if isinstance(chat_template, str) else "\n".join(chat_template.values())


def _quoted(text: str) -> str:
    """The text as it appears inside a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
