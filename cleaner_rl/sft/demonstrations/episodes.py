"""Demonstrations: episodes in which a program is written, run and repaired, and gives the answer.

Every program is executed, and the tool's answers are the sandbox's real output. The ingredients of
an episode are drawn independently of each other, so that none gives another away:

- the program is right, or it runs but computes the wrong thing;
- it is written without a bug, with one, or with two that are corrected one at a time, in the order
  in which they are reported;
- a correction is the same program without the bug, or another program.

The last turn boxes what the final program printed, right or wrong, with the same confidence.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cleaner_env.formats import HermesFormat
from cleaner_env.formats.protocol import ToolCallFormat
from cleaner_env.interpreter import Result
from cleaner_env.observation import format_observation
from cleaner_env.rewards import score
from cleaner_env.task import Task
from cleaner_env.tasks.sources import ReasoningGymTasks, TaskSource
from cleaner_rl.errors import UserError
from cleaner_rl.sft.config import DemonstrationMix
from cleaner_rl.sft.demonstrations.bugs import propose_bug
from cleaner_rl.sft.demonstrations.programs import PROGRAM_BOOK, ProgramBook, Programs

MAX_ATTEMPTS = 40
"""Draws of a program or a bug before giving up on a task."""

REMARKS: dict[str, list[str]] = tomllib.loads(
    Path(__file__).with_name("remarks.toml").read_text("utf-8")
)
"""What the assistant says before a corrected call, by the class of the error."""
OTHER_REMARKS = ["That failed, I will correct it.", "I correct the program."]
NEW_PROGRAM_REMARKS = ("I will try another way.", "Let me write it differently.")
ANSWER = "The answer is \\boxed{{{}}}."

Run = Callable[[str], Result]
"""Executes a program."""


class DemonstrationError(UserError):
    """Too few tasks gave a demonstration: they have no programs, or the sandbox does not work."""


@dataclass(frozen=True)
class Turn:
    """The assistant's text, without its end token, and the tool's answer; None in the last turn."""

    text: str
    observation: str | None = None


@dataclass(frozen=True)
class Demonstration:
    """One episode. ``bugs`` names the injected bugs in the order in which they are corrected."""

    family: str
    prompt: str
    turns: tuple[Turn, ...]
    right: bool
    bugs: tuple[str, ...]


def write_demonstration(
    task: Task,
    run: Run,
    rng: random.Random,
    mix: DemonstrationMix,
    book: ProgramBook = PROGRAM_BOOK,
    format: ToolCallFormat | None = None,
) -> Demonstration | None:
    """Write a demonstration for a task of the book, with calls in ``format`` (None for Hermes).

    Returns None if the ingredients drawn do not go together.
    """
    programs = book[task.family]
    format = format or HermesFormat()
    right = rng.random() >= mix.wrong
    draw = rng.random()
    bug_count = 2 if draw < mix.two_bugs else 1 if draw < mix.buggy else 0
    program = _draw_program(task, programs, run, rng, right=right)
    if program is None:
        return None
    failures = _break_program(program.code, bug_count, run, rng)
    if failures is None:
        return None
    remark = rng.choice(programs.sentences)
    turns = []
    for failure in failures:
        turns.append(_call_turn(format, remark, failure))
        remark = rng.choice(REMARKS.get(failure.result.error_class or "", OTHER_REMARKS))
    if failures and rng.random() < mix.other_program:
        other = _draw_program(task, programs, run, rng, right=right, avoid=program.code)
        if other is not None:
            program, remark = other, rng.choice(NEW_PROGRAM_REMARKS)
    turns.append(_call_turn(format, remark, program))
    turns.append(Turn(ANSWER.format(program.result.stdout.strip())))
    bugs = tuple(failure.bug for failure in failures)
    return Demonstration(task.family, task.prompt, tuple(turns), right, bugs)


def generate_demonstrations(
    count: int,
    run: Run,
    *,
    seed: int = 0,
    mix: DemonstrationMix | None = None,
    threads: int = 2,
    tasks: TaskSource | None = None,
    book: ProgramBook = PROGRAM_BOOK,
    format: ToolCallFormat | None = None,
) -> Iterator[Demonstration]:
    """Yield demonstrations in the order of tasks; the same seed gives the same ones.

    ``run`` is called from several threads. Tasks without programs in ``book`` are skipped. None as
    ``tasks`` means the training split of the bundled policy's families, in turn.
    """
    mix = mix or DemonstrationMix()
    source = ReasoningGymTasks(split="train", seed=seed) if tasks is None else tasks

    def attempt(index: int) -> Demonstration | None:
        rng = random.Random(f"{seed}/{index}")
        return write_demonstration(source[index], run, rng, mix, book, format)

    made = tried = drawn = 0
    with ThreadPoolExecutor(threads) as pool:
        while made < count:
            batch = range(drawn, drawn + min(240, max(24, count - made)))
            drawn += len(batch)
            known = [index for index in batch if _knows(book, source[index])]
            tried += len(known)
            for demonstration in pool.map(attempt, known):
                if demonstration is not None and made < count:
                    made += 1
                    yield demonstration
            if tried > 200 and made < tried // 2:
                raise DemonstrationError(
                    f"only {made} of {tried} tasks gave a demonstration, because programs that "
                    "should run do not; check the sandbox with: python -m sandbox doctor"
                )
            if drawn > 200 and tried < drawn // 20:
                raise DemonstrationError(
                    f"only {tried} of {drawn} tasks have programs; demonstrations exist for the "
                    f"families {', '.join(sorted(book))}"
                )


def _knows(book: ProgramBook, task: Task) -> bool:
    return task.family in book and book[task.family].knows(task.prompt)


@dataclass(frozen=True)
class _Executed:
    """A program and its result in the sandbox."""

    code: str
    result: Result
    bug: str = ""

    @property
    def observation(self) -> str:
        return format_observation(self.result)


def _draw_program(
    task: Task, programs: Programs, run: Run, rng: random.Random, *, right: bool, avoid: str = ""
) -> _Executed | None:
    """Draw a program that runs, prints one line, and is right, or wrong, as ``right`` demands."""
    seen = {avoid}
    for _ in range(MAX_ATTEMPTS):
        code = programs.draw(task.prompt, rng, right=right)
        if code in seen:
            continue
        seen.add(code)
        result = run(code)
        answer = result.stdout.strip()
        if not result.ok or not answer or "\n" in answer or len(answer) > programs.longest_answer:
            continue
        if (score(answer, task) >= 1.0) == right:
            return _Executed(code, result)
    return None


def _break_program(
    code: str, bug_count: int, run: Run, rng: random.Random
) -> list[_Executed] | None:
    """Failing versions of a program: the first has all bugs, each later one a bug fewer."""
    for _ in range(MAX_ATTEMPTS if bug_count else 1):
        failures: list[_Executed] = []
        broken = code
        for _ in range(bug_count):
            proposal = propose_bug(broken, rng)
            if proposal is None:
                break
            bug, broken = proposal
            failures.insert(0, _Executed(broken, run(broken), bug))
        if len(failures) < bug_count or any(failure.result.ok for failure in failures):
            continue
        # The bug corrected first must be the one reported first. The error is the last line, below
        # the traceback.
        errors = {failure.observation.rstrip().rpartition("\n")[2] for failure in failures}
        if len(errors) == bug_count:
            return failures
    return None


def _call_turn(format: ToolCallFormat, remark: str, executed: _Executed) -> Turn:
    """A remark with the call, and the program's output."""
    return Turn(f"{remark}\n{format.render(executed.code)}", executed.observation)
