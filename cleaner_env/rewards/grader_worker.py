"""The process in which math-verify compares answers. Run as a script by ``grader.Grader``.

One JSON object a line on standard input, ``{"gold": ..., "answer": ..., "seconds": ...}``; one a
line on standard output, ``{"equal": true}``. It imports nothing of ours, ends when its input ends,
and ends itself by a signal when a comparison takes much longer than its caller waits.
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
"""Bytes of address space: a power tower must not take the machine's memory."""


def _answer(requests: Any, replies: Any) -> None:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    kinds = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())

    def read(text: str) -> Any:
        # Its own timeout needs SIGALRM: off. The caller kills this process instead.
        boxed = f"\\boxed{{{text}}}"
        return parse(boxed, extraction_config=kinds, parsing_timeout=None)

    read_gold = lru_cache(maxsize=1024)(read)
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in requests:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, 2 * request["seconds"] + 1)
        try:
            equal = verify(
                read_gold(request["gold"]), read(request["answer"]), timeout_seconds=None
            )
        except RecursionError:
            equal = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps({"equal": bool(equal)}), file=replies, flush=True)


def main() -> None:
    """Serve requests until the input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints does not end up between the replies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, which ends this
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _answer(sys.stdin, replies)


if __name__ == "__main__":
    main()
