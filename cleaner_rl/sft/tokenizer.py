"""The small tokenizer of the bundled policy: byte-level BPE, single digits, Hermes chat template.

Any Unicode text survives encoding and decoding, because the base alphabet is all 256 bytes. Each
digit is a token, so that copying a number means copying its digits. Special tokens and chat
template are those of the Qwen2.5 family. The template is prefix-preserving: a longer conversation
never changes how an earlier message is rendered.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TOOL_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
BOILERPLATE = (
    '\n{"name": "code_interpreter", "arguments": {"code": "',
    '"}}\n',
    'Traceback (most recent call last):\n  File "main.py", line ',
    '  File "main.py", line ',
    ", in <module>\n",
    "The answer is \\boxed{",
)
"""Texts that every episode repeats, each an ordinary (not special) token. None has a digit."""

_PIECES = Regex(
    r"\\n *"  # a line break escaped in JSON, and the indentation after it
    r"| ?[\p{L}_]+"
    r"|\p{N}"
    r'| ?(?:\\"|[^\s\p{L}\p{N}\\_])+ ?'  # punctuation; an escaped quotation mark counts as one
    r"|\\."
    r"|\s+"
)
"""Pieces within which BPE may merge. Text that no branch matches is a piece of its own."""

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja").read_text("utf-8").strip()
"""ChatML with Hermes tools; prefix-preserving because each tool message has its own block."""


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """Learn the merges from texts without special tokens. ``AutoTokenizer`` can load the result.

    ``vocab_size`` includes the 256 bytes and all added tokens.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS + TOOL_TOKENS + BOILERPLATE),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(_without_added_tokens(texts), trainer)
    core.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    core.add_tokens(
        [AddedToken(token, normalized=False, special=False) for token in TOOL_TOKENS + BOILERPLATE]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _without_added_tokens(texts: Iterable[str]) -> Iterable[str]:
    """Cut out the added tokens, so that no merge is spent on text that is one token already."""
    for text in texts:
        for token in (*TOOL_TOKENS, *sorted(BOILERPLATE, key=len, reverse=True)):
            text = text.replace(token, "\0")
        yield from filter(None, text.split("\0"))
