"""Notation: the many ways to write an answer become one, which is plain TeX.

The tables list the ways by where they come from: characters, decoration, TeX's commands, Python.
``plain`` applies them to the reference and to the answer alike.
"""

# ruff: noqa: RUF001 (the first table is about characters that look like others)

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

_CHARACTERS = r"""
- −–—‐‑‒⁻ | ' ’‘′` | " “”
\times × | \cdot ·⋅ | \div ÷ | \pm ± | \sqrt √ | ^{\circ} ° | \infty ∞ | \ldots …
\le ≤⩽ | \ge ≥⩾ | \ne ≠ | \approx ≈ | \in ∈ | \cup ∪ | \cap ∩ | \pi π | \theta θ
\frac{1}{2} ½ | \frac{1}{3} ⅓ | \frac{2}{3} ⅔ | \frac{1}{4} ¼ | \frac{3}{4} ¾ | \frac{1}{5} ⅕
"""
_TRANSLATION = {
    ord(character): written if len(written) == 1 else f" {written} ".replace(" ^", "^")
    for written, characters in map(str.split, _CHARACTERS.strip().replace("\n", "|").split("|"))
    for character in characters
}
_SCRIPTS = {"^": re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+"), "_": re.compile("[₀₁₂₃₄₅₆₇₈₉]+")}

_AROUND = [
    *((mark, mark) for mark in ("$$", "$", "***", "**", "*", "__", "'", '"')),
    *((r"\(", r"\)"), (r"\[", r"\]"), ("{", "}"), ("(", ")")),
]
"""What says nothing where it encloses a whole answer."""

_BEFORE = re.compile(
    r"""[*\s]*(?:\\text\{)?
    (?:(?:thus|so|hence|therefore|i\ think)\b[,:]?\s*)?
    (?:(?:the|my)\ )?(?:(?:final|correct)\ )?(?:answer|result|solution)
    (?:\s+is\b\s*:?|\s*[:=])[\s}*]*
    |(?:\\approx\b|\\text\{(?:about|approximately)\}|(?:about|approximately|roughly)\b|[~=])\s*
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Words and signs before an answer."""

_AFTER = re.compile(
    r"(?:\s*\(?(?:\\text\{\s*\(?)?(?:approximately|approx\.?|rounded)\)?\}?\)?|[.,;:\s]+)$", re.I
)
"""Words and signs after an answer."""

_TEXT = "text textbf textit textrm textsf texttt textnormal textup mbox hbox emph".split()
_FONTS = "mathrm mathbf mathit mathsf mathtt boldsymbol bm operatorname".split()
_LAYOUT = (
    "quad qquad thinspace medspace thickspace enspace displaystyle textstyle left right middle "
    "big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr tiny small normalsize large "
    "Large LARGE huge Huge bf rm it sf tt bfseries itshape centering"
)
_COMMANDS = {
    **dict.fromkeys(("boxed", "fbox", "framebox", "underline"), (1, "#1")),
    **dict.fromkeys(("textcolor", "colorbox", "color"), (2, "#2")),
    **dict.fromkeys(("hspace", "phantom"), (1, " ")),
    **dict.fromkeys(("frac", "dfrac", "tfrac", "cfrac"), (2, r"\frac{#1}{#2}")),
    **dict.fromkeys((*_TEXT, *_FONTS), (1, r"\text{#1}")),
    **dict.fromkeys(_LAYOUT.split(), (0, " ")),
}
"""TeX's commands: how many arguments they take, and what they become."""
NAMES = "sin cos tan cot sec csc arcsin arccos arctan log ln exp gcd max min".split()
"""Functions that TeX writes upright."""
_COMMAND = re.compile(r"(?<!\\)\\([a-zA-Z]+)\*?\s*")

_FUNCTIONS = {
    "sqrt": r"\sqrt{#1}",
    "cbrt": r"\sqrt[3]{#1}",
    "exp": "e^{#1}",
    "abs": "|#1|",
    "factorial": "(#1)!",
    **dict.fromkeys(("comb", "binomial"), r"\binom{#1}{#2}"),
    **dict.fromkeys(("Fraction", "Rational"), r"\frac{#1}{#2}"),
    **dict.fromkeys(("Decimal", "Integer", "Float", "mpf", "mpq", "int", "float"), "#1"),
    **dict.fromkeys(("float32", "float64", "int32", "int64", "complex128"), "#1"),
    **dict.fromkeys(("array", "Matrix", "list", "tuple", "set", "frozenset"), "#1"),
}
"""What Python and its mathematical packages print as a call, and its arguments in TeX."""
_CALL = re.compile(rf"(?<![\\\w])(?:[a-z]+\.)?({'|'.join(_FUNCTIONS)})(?=\()")


def _joined(number: re.Match[str]) -> str:
    return re.sub("[ _'.]", "", number[0])


_REWRITES: dict[str, str | Callable[[re.Match[str]], str]] = {
    # relations and other symbols with several names
    r"\\(?:le|leq|leqslant)(?![a-zA-Z])|<=": r"\\le ",
    r"\\(?:ge|geq|geqslant)(?![a-zA-Z])|>=": r"\\ge ",
    r"\\lt(?![a-zA-Z])": "<",
    r"\\gt(?![a-zA-Z])": ">",
    r"\\neq(?![a-zA-Z])|(?<=[a-zA-Z\s])!=": r"\\ne ",
    r"==|\\(?:approx|simeq)(?![a-zA-Z])": "=",
    r"\\[cl]?dots[a-z]?(?![a-zA-Z])": r"\\ldots ",
    r"\^\s*\\circ(?![a-zA-Z])": r"^{\\circ}",
    r"\\varnothing(?![a-zA-Z])": r"\\emptyset ",
    # Python's constants, complex numbers and operators
    r"(?<![\\A-Za-z])(?:math\.|np\.)?pi(?![A-Za-z])": r"\\pi ",
    r"(?<![\\A-Za-z])(?:math\.|np\.)?(?:oo|inf|infinity)(?![A-Za-z])": r"\\infty ",
    r"\*\s*I\b|(?<=\d)j\b": "i",
    r"\*\*": "^",
    r"(?<=\d)\s*[xX](?=\s*10\s*\^)": r" \\cdot ",
    r"\*|\\times(?![a-zA-Z])": r" \\cdot ",
    r"\^\s*\(([^()]*)\)": r"^{\1}",
    r"\^\s*([+-]?\d+(?:\.\d+)?)": r"^{\1}",
    # marks between the digits of a number: 1{,}000, 1,\!000, 1\,000, 1 000, 1_000, 1'000
    r"\\text\{\s*,\s*\}|\{,\}|,\\!": ",",
    r"(?<!\\)\\[,;:>! ]|~": " ",
    r"(?<![\w.,])\d{1,3}(?:([ _'])\d{3})(?:\1\d{3})*(?!\w)": _joined,
    r"(?<![\w.,])\d{1,3}(?:\.\d{3}){2,}(?![\w.])": _joined,
    r"\\text\{\s*(and|or)\s*\}": r" \1 ",
    # ordinals, and units as fractions
    r"(?<=\d)(?:\^\{)?(?:\\text\{)?(?i:st|nd|rd|th)(?![a-zA-Z])\}*": "",
    r"\\frac\{(\\text\{[^{}]*\})\}\{(\\text\{[^{}]*\})\}": r"\1/\2",
    r"\s+": " ",
}
_COMPILED = [(re.compile(pattern), replacement) for pattern, replacement in _REWRITES.items()]
_ROUNDS = 4
"""How deep decoration may be nested in decoration."""


@lru_cache(maxsize=1024)
def plain(text: str) -> str:
    """An answer in plain TeX, without decoration."""
    for mark, scripts in _SCRIPTS.items():
        text = scripts.sub(rf"{mark}{{\g<0>}}", text)
    text = unicodedata.normalize("NFKC", text.translate(_TRANSLATION).replace("...", r"\ldots "))
    text = re.sub(r"\s+", " ", text)
    text = "".join(char for char in text if unicodedata.category(char) not in ("Cf", "Cc"))
    if r"\begin" not in text:  # where a doubled backslash is the end of a row
        text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)
    for _ in range(_ROUNDS):
        before, text = text, _calls(_commands(_dollars(_bare(text))))
        for pattern, replacement in _COMPILED:
            text = pattern.sub(replacement, text)
        if text == before:
            break
    return _bare(text)


def split(text: str, *separators: str) -> list[str]:
    """The parts of a text between separators that no bracket encloses."""
    parts, begin, place, depth = [], 0, 0, 0
    while place < len(text):
        depth += (text[place] in "([{") - (text[place] in ")]}")
        found = next((mark for mark in separators if text.startswith(mark, place)), "")
        if found and depth == 0:
            parts.append(text[begin:place].strip())
            begin = place + len(found)
        place += len(found) or 1
    return [*parts, text[begin:].strip()]


def closing(text: str, place: int) -> int:
    """The index of the bracket that closes the one at ``place``; -1 without one."""
    depth = 0
    for index in range(place, len(text)):
        depth += (text[index] in "([{") - (text[index] in ")]}")
        if depth == 0:
            return index
    return -1


def _argument(text: str, place: int) -> tuple[str, int]:
    """The argument of a TeX command that begins at ``place``, and where it ends."""
    while text[place : place + 1] == " ":
        place += 1
    end = closing(text, place) if text.startswith("{", place) else -1
    if end >= 0:
        return text[place + 1 : end], end + 1
    command = _COMMAND.match(text, place)
    end = command.end() if command else min(place + 1, len(text))
    return text[place:end], end


def _bare(text: str) -> str:
    """Without what stands before an answer, after it and around it."""
    before = None
    while text != before:
        before, text = text, _AFTER.sub("", text.strip())
        words = _BEFORE.match(text)
        text = text[words.end() :] if words and words.end() < len(text) else text
        for left, right in _AROUND:
            inside = text[len(left) : -len(right)]
            if not (text.startswith(left) and text.endswith(right) and inside.strip()):
                continue
            if left in "{(":
                pair = left == "(" and re.search("[,;]", inside)
                encloses = closing(text, 0) == len(text) - 1 and not pair
            else:
                encloses = left not in inside and right not in inside
            text = inside if encloses else text
    return text


def _dollars(text: str) -> str:
    r"""Two ``$`` enclose a formula; one alone is a currency, written ``\$``."""
    count = len(re.findall(r"(?<!\\)\$", text))
    return re.sub(r"(?<!\\)\$", r"\\$" if count % 2 else "", text)


def _commands(text: str) -> str:
    """With TeX's commands replaced by what they become."""
    done, place = "", 0
    while command := _COMMAND.search(text, place):
        done, place = done + text[place : command.start()], command.end()
        if command[1] not in _COMMANDS:
            done += command[0]
            continue
        count, form = _COMMANDS[command[1]]
        for number in range(1, count + 1):
            content, place = _argument(text, place)
            form = form.replace(f"#{number}", _commands(content))
        done += _words(form, command[1], done)
    return done + text[place:]


def _words(form: str, command: str, before: str) -> str:
    r"""What a command becomes; ``\text{}`` stays around words, such as a unit."""
    if not form.startswith(r"\text{"):
        return form
    content = form.removeprefix(r"\text{").removesuffix("}").strip()
    symbol = command in _FONTS and not re.search(r"[\d})]\s*$", before)
    if symbol and content in NAMES:
        return rf"\{content} "
    words = re.search("[A-Za-z]", content) and not re.search(r"[\d=]", content)
    return content if (symbol and len(content) < 2) or not words else form


def _calls(text: str) -> str:
    """With Python's calls in TeX."""
    done, place = "", 0
    while call := _CALL.search(text, place):
        end = closing(text, call.end())
        if end < 0:
            break
        form = _FUNCTIONS[call[1]]
        arguments = [*split(_calls(text[call.end() + 1 : end]), ","), "1"]
        for number in (1, 2):
            form = form.replace(f"#{number}", arguments[number - 1].strip("'\""))
        done, place = done + text[place : call.start()] + form, end + 1
    return done + text[place:]
