"""Extraction: the final answer in a turn, a ``\\boxed{}`` or a fenced program."""

from __future__ import annotations

import re

_FENCE = re.compile(r" {0,3}(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)")
_PYTHON = ("python", "python3", "py")


def extract_boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}``, braces inside it balanced.

    Escaped braces (``\{``, ``\}``) are text. Of boxes inside each other the inner one counts, since
    it begins last. ``\fbox`` and ``\framebox`` are no answers.
    """
    marker = "\\boxed{"
    end_of: dict[int, int] = {}
    open_braces: list[int] = []
    for brace in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if brace.group() == "{":
            open_braces.append(brace.start())
        elif brace.group() == "}" and open_braces:
            end_of[open_braces.pop()] = brace.start()
    start = text.rfind(marker)
    while start >= 0:
        opening = start + len(marker) - 1
        if opening in end_of:
            return text[opening + 1 : end_of[opening]].strip()
        start = text.rfind(marker, 0, start)
    return None


def extract_code(text: str) -> str | None:
    """The program in the last complete fenced block marked as Python.

    Without one, the last complete block without a language. A fence is three or more backticks or
    tildes at the beginning of a line, and ends at a line with as many of them, as in CommonMark, so
    a program may hold shorter fences in its strings.
    """
    marked = unmarked = None
    for language, block in _blocks(text.split("\n")):
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
