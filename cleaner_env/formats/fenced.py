"""Fenced code: a Markdown block marked ``python`` is a call. For models without tool training.

A closing fence is at least as long as the opening one (CommonMark), so a program that contains
fences is written between longer ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from cleaner_env.formats.base import Call, TextFormat

_OPENING = re.compile(r"^ {0,3}(`{3,})(?:python|python3|py)[ \t\r]*(?:\n|\Z)", re.I | re.M)
_FENCE_IN_PROGRAM = re.compile(r"^ {0,3}(`{3,})", re.M)


class FencedFormat(TextFormat):
    """A block that begins with a line of three backticks and ``python``; see ``TextFormat``.

    Blocks in other languages, or without a language, are text.
    """

    name = "fenced"

    @property
    def instructions(self) -> str:
        return (
            "To run a program, end your turn with a Python code block that prints the results:\n"
            f"{self.render('print(6 * 7)')}"
        )

    def render(self, code: str, *more: str) -> str:
        return "\n".join(_block(program) for program in (code, *more))

    def render_foreign(self, name: str, arguments: str) -> str:
        """The arguments in a block that is not closed."""
        return _block(arguments).rpartition("\n")[0]

    def _calls(self, text: str, start: int) -> Iterator[Call]:
        while opening := _OPENING.search(text, start):
            fence = opening[1]
            closing = re.compile(rf"^ {{0,3}}{fence}`*[ \t\r]*$", re.M).search(text, opening.end())
            if closing is None:
                error = f"the code block is not closed; end it with a line {fence}"
                yield Call(opening.start(), len(text), error=error)
                return
            code = text[opening.end() : closing.start()].removesuffix("\n")
            code = code.removesuffix("\r") if opening[0].endswith("\r\n") else code
            start = closing.end()
            yield Call(opening.start(), start, code)


def _block(code: str) -> str:
    longest = max(map(len, _FENCE_IN_PROGRAM.findall(code)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}python\n{code}\n{fence}"
