"""Extraction: the final answer in a turn, a ``\\boxed{}`` or a fenced program."""

from __future__ import annotations

import re
from itertools import zip_longest

from cleaner_env.formats.thoughts import thought_end

_FENCE = re.compile(r" {0,3}(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)")
_PYTHON = ("python", "python3", "py")
_BOX = re.compile(r"\\boxed(?![a-zA-Z]{2})\s*")
_FRAME = re.compile(r"\\f(?:rame)?box(?![a-zA-Z])(?:\s*\[[^\]]*\])*\s*")
_UNBRACED = re.compile(r"\\(?!boxed)[a-zA-Z]+|[^\s{}$\\]")
_CHANNEL, _FINAL = "<|channel|>", "<|channel|>final<|message|>"


def after_thought(text: str) -> str:
    """The part of a turn after its thought; nothing if the thought is never closed."""
    if _CHANNEL in text:  # harmony has a channel for answers
        return text.rpartition(_FINAL)[2] if _FINAL in text else ""
    fences = [fence.start() for fence in re.finditer("```", text)]
    end = thought_end(text, False, zip_longest(fences[::2], fences[1::2], fillvalue=len(text)))
    return "" if end is None else text[end:]


def extract_boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}`` after the turn's thought.

    Braces inside it are balanced; escaped ones (``\{``, ``\}``) are text. They may be missing:
    ``\boxed 2``, ``\boxed\frac12``. Of boxes inside each other the inner one counts, since it
    begins last. ``\fbox`` and ``\framebox`` count where nothing is ``\boxed``.
    """
    text = after_thought(text)
    end_of: dict[int, int] = {}
    open_braces: list[int] = []
    for brace in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if brace.group() == "{":
            open_braces.append(brace.start())
        elif brace.group() == "}" and open_braces:
            end_of[open_braces.pop()] = brace.start()
    for marker in (_BOX, _FRAME):
        for box in reversed(list(marker.finditer(text))):
            content = _content(text, box.end(), end_of)
            if content is not None:
                return content
    return None


def _content(text: str, place: int, end_of: dict[int, int]) -> str | None:
    """What a box holds, in braces or without them; None if the braces are never closed."""
    if text.startswith("{", place):
        return text[place + 1 : end_of[place]].strip() if place in end_of else None
    begin = place
    while place < len(text):
        if text[place] == "{" and place in end_of:
            place = end_of[place] + 1
        elif part := _UNBRACED.match(text, place):
            place = part.end()
        else:
            break
    content = text[begin:place].rstrip(".,;:!?")
    if content.count(")") > content.count("("):
        content = content.rstrip(")")
    return content if re.match(r"[\d\\+(-]|[A-Za-z]$", content) else None


def extract_code(text: str) -> str | None:
    """The program in the last complete fenced block marked as Python.

    Without one, the last complete block without a language. A fence is three or more backticks or
    tildes at the beginning of a line, and ends at a line with as many of them, as in CommonMark, so
    a program may hold shorter fences in its strings. A thought's programs do not count.
    """
    marked = unmarked = None
    for language, block in _blocks(after_thought(text).split("\n")):
        if language in _PYTHON:
            marked = block
        elif not language:
            unmarked = block
    return unmarked if marked is None else marked


def _blocks(lines: list[str]) -> list[tuple[str, str]]:
    """Language and content of each complete fenced block."""
    blocks: list[tuple[str, str]] = []
    fence, language, begin = "", "", 0
    for number, line in enumerate(lines):
        if fence:
            closing = line.strip()
            if closing.startswith(fence) and not closing.strip(fence[0]):
                blocks.append((language, "\n".join(lines[begin:number])))
                fence = ""
            continue
        opening = _FENCE.match(line)
        # A backtick in what follows the fence makes it inline code.
        if opening and not (opening["fence"][0] == "`" and "`" in opening["info"]):
            fence, begin = opening["fence"], number + 1
            language = (opening["info"].split() or [""])[0].lower()
    return blocks
