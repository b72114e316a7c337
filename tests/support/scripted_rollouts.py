"""Scripted episodes in tokens, to hold every loop that plays SAAR to the trainer's own rollout.

Turns, their log-probabilities and what programs answer are fixed, so purified token ids, masks,
log-probabilities and rewards are too. ``scripted_rollouts.json`` has them as the trainer's rollout
gives them. ``tests/cleaner_rl/rollout/test_scripted_rollouts.py`` holds the rollout to that file;
run as a program, it writes the file anew.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from cleaner_env import HermesFormat, Task
from sandbox import Result, SandboxError, Status

FILE = Path(__file__).with_suffix(".json")
BUNDLED = Path(__file__).parents[2] / "cleaner_rl" / "bundled"
"""A directory with the tokenizer whose ids the file has."""
TASK = Task("What is 6*7?", "42")
MAX_LENGTH = 600
"""Tokens after the prompt."""
SYSTEM_PROMPT = None

_call = HermesFormat().render
_BUG = "I multiply.\n" + _call("x = 6 * y\nprint(x)")
_FIX = "The name was wrong.\n" + _call("x = 6 * 7\nprint(x)")
_OTHER = "Let me add instead.\n" + _call("print(sum(7 for _ in range(6)))")
_AGAIN = "Once more.\n" + _call("x = 6 * y + 0\nprint(x)")
_ANSWER = r"The answer is \boxed{42}."
_WRONG = r"The answer is \boxed{41}."
_CUT = "I multiply and"

SCRIPTS: dict[str, list[str]] = {
    "no call": [_ANSWER],
    "clean": [_FIX, _ANSWER],
    "shallow": [_BUG, _FIX, _ANSWER],
    "deep": [_BUG, _OTHER, _ANSWER],
    "later": [_FIX, _BUG, _AGAIN, _FIX, _WRONG],
    "malformed": ["I try.\n<tool_call>{print(1)}</tool_call>", _FIX, _ANSWER],
    "gave up": [_BUG, _ANSWER],
    "exhausted": [_BUG, _AGAIN, _BUG, _AGAIN, _FIX, _ANSWER],
    "cut off": [_FIX, _CUT],
    "cut off in a lookahead": [_BUG, _CUT],
}
"""The turns of each episode, as text. Turns that are cut off have no token that ends them."""


class ScriptedSandbox:
    """Answers programs without running them: those with ``y`` fail, the others print 42."""

    def run(self, code: str) -> Result:
        if "y" not in code:
            return Result(Status.OK, "42\n")
        trace = "Traceback (most recent call last):\nNameError: name 'y' is not defined\n"
        return Result(Status.ERROR, traceback=trace, error_class="NameError")

    def close(self) -> None:
        pass


class BrokenSandbox(ScriptedSandbox):
    """Breaks at the first programs, or at all of them."""

    def __init__(self, faults: float = math.inf) -> None:
        self.faults = faults

    def run(self, code: str) -> Result:
        self.faults -= 1
        if self.faults >= 0:
            raise SandboxError("no worker answers")
        return super().run(code)


def turns(tokenizer: Any, name: str) -> list[tuple[list[int], list[float]]]:
    """The episode's turns in order: token ids and log-probabilities."""
    script = []
    for number, text in enumerate(SCRIPTS[name]):
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if text is not _CUT:
            ids.append(tokenizer.eos_token_id)
        script.append((ids, [-0.125 * (number + 1) - 0.001 * i for i in range(len(ids))]))
    return script


def expected() -> dict[str, dict[str, Any]]:
    """The rows by the name of the script, with the keys of ``TrainingRow``."""
    rows: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return rows
