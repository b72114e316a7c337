"""The process in which math-verify compares answers, run as a script by ``grader.Grader``.

It reads one JSON object per line, ``{"gold": ..., "answer": ..., "seconds": ...}``, and writes one,
``{"equal": true, "values": ["1/2", "~1.4142..."]}``; ``grader.Reply`` says what the values are. It
imports none of our modules and ends with its input. A signal ends it if a comparison takes much
longer than its caller waits.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from functools import lru_cache
from typing import Any

_MEMORY = 2 << 30
"""The most bytes of address space, so that a power tower cannot fill the machine's memory."""
_EXACT_BITS = 12_000
"""The length above which a number is not sent to the caller but compared here."""


def _answer(requests: Any, replies: Any) -> None:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Basic, Float, Rational

    logging.disable(logging.CRITICAL)
    # The caller has dealt with units. math-verify would also drop the t of 2t.
    form = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="none")
    kinds = (LatexExtractionConfig(boxed_match_priority=0, normalization_config=form),)

    def read(text: str) -> list[Any]:
        # Without a timeout, which would need SIGALRM: the caller kills this process instead.
        found = parse(f"$${text}$$", kinds, "no_fallback", parsing_timeout=None)
        return [with_fractions(one) if isinstance(one, Basic) else one for one in found]

    def with_fractions(expression: Any) -> Any:
        """An expression with exact decimals, because math-verify rounds floats to six places."""
        floats = expression.atoms(Float)
        return expression.xreplace({one: Rational(str(one)) for one in floats})

    read_gold = lru_cache(maxsize=1024)(read)
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in requests:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, 2 * request["seconds"] + 1)
        try:
            gold, answer = read_gold(request["gold"]), read(request["answer"])
            values = _value(gold), _value(answer)
            if None in values:
                equal = verify(gold, answer, numeric_precision=50, timeout_seconds=None)
            else:
                equal = values[0] == values[1]
        except RecursionError:
            equal, values = False, (None, None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        reply = {"equal": bool(equal), "values": values}
        print(json.dumps(reply), file=replies, flush=True)


def _value(found: list[Any]) -> str | None:
    """The real number that an expression is: a fraction, or ``~`` and 50 digits."""
    from sympy import Expr

    if not found or not isinstance(found[0], Expr) or found[0].free_symbols:
        return None
    value = found[0].doit()
    if value.is_Rational:
        small = max(int(value.p).bit_length(), int(value.q).bit_length()) < _EXACT_BITS
        return f"{value.p}/{value.q}" if small else None
    digits = value.evalf(50)
    if not digits.is_Float or not digits.is_finite:
        return None
    if digits._prec == 1:  # no digit is certain: it is zero
        return "0/1"
    # As a fraction, e^{10^9} would fill the caller's memory.
    return f"~{digits}" if abs(digits._mpf_[2]) < _EXACT_BITS else None


def main() -> None:
    """Serve requests until the input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that nothing a library prints gets between the replies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's, which ends this process
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _answer(sys.stdin, replies)


if __name__ == "__main__":
    main()
