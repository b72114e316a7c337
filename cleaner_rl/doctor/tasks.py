"""Checks of tasks: whether they load, are graded in time and rightly, and fit into the context."""

from __future__ import annotations

import threading
import time
from collections import Counter
from statistics import median

from cleaner_env.formats.protocol import system_prompt
from cleaner_env.interpreter import Sandbox
from cleaner_env.rewards import SCORERS, score
from cleaner_env.task import Task
from cleaner_rl.doctor.subject import Finding, Subject

_HOSTILE = (
    "9**9**9**9**9",
    "1e999999999",
    "(" * 3000,
    "\\frac{" * 300,
    "x" * 100_000,
    "\\sqrt{" + "+".join(f"x_{i}" for i in range(500)) + "}",
)
"""Answers that have kept graders busy for hours, or killed them."""
_NONSENSE = "no such answer"


def check_tasks(subject: Subject) -> Finding:
    """The problems must load."""
    tasks = subject.tasks
    families = Counter(task.family for task in tasks)
    named = ", ".join(name for name, _ in families.most_common(8))
    more = f" and {len(families) - 8} more" if len(families) > 8 else ""
    return Finding(
        "ok",
        f"{len(tasks)} problems loaded, of the families {named}{more}",
        details={"families": dict(families), "first": tasks[0].prompt},
    )


def check_grader(subject: Subject) -> Finding:
    """Reference answers must be right, nonsense wrong, and every answer graded in time."""
    rewards = Counter(task.reward for task in subject.tasks)
    if not any(SCORERS[name].runs_programs for name in rewards):
        return _grade_all(subject, rewards, None)
    # The reference programs are the data set's own: they may run wherever programs can run at all.
    with Sandbox(allow_weak=True) as sandbox:
        return _grade_all(subject, rewards, sandbox)


def _grade_all(subject: Subject, rewards: Counter[str], sandbox: Sandbox | None) -> Finding:
    slowest, wrong, fooled = 0.0, [], []
    one_of_each = {(task.reward, task.family): task for task in subject.tasks}
    for task in subject.tasks:
        verdict, seconds = _graded(task.answer, task, sandbox, subject.grader_seconds)
        slowest = max(slowest, seconds)
        if verdict is None:
            return _too_slow(task.answer, task, subject.grader_seconds)
        if verdict < 1.0:
            wrong.append(task)
    for task in one_of_each.values():
        for answer in (_NONSENSE, *_HOSTILE):
            verdict, seconds = _graded(answer, task, sandbox, subject.grader_seconds)
            slowest = max(slowest, seconds)
            if verdict is None:
                return _too_slow(answer, task, subject.grader_seconds)
            if verdict >= 1.0:
                fooled.append((answer, task))
    details = {"rewards": dict(rewards), "slowest_seconds": round(slowest, 3)}
    if fooled:
        answer, task = fooled[0]
        return Finding(
            "failed",
            f"the reward {task.reward!r} takes {answer[:30]!r} for the answer {task.answer!r}",
            "name another reward for these tasks",
            details,
        )
    if wrong:
        task = wrong[0]
        return Finding(
            "warning",
            f"{len(wrong)} of {len(subject.tasks)} reference answers are not right in the eyes of "
            f"their own reward, such as {task.answer!r} ({task.reward}, {task.family})",
            "check that the rows name the right reward; where the reference is no answer, as with "
            "programs that are judged by tests, this is expected",
            details,
        )
    return Finding(
        "ok",
        f"{len(subject.tasks)} reference answers are right, nonsense is wrong, and of "
        f"{len(_HOSTILE)} hostile answers none took longer than {max(slowest, 0.01):.2f} s",
        details=details,
    )


def _graded(
    answer: str, task: Task, sandbox: Sandbox | None, seconds: float
) -> tuple[float | None, float]:
    """The verdict and how long it took, asked from a thread as in training; None out of time.

    Raises:
        Exception: what the grader raised.
    """
    verdicts: list[float | Exception] = []

    def grade() -> None:
        try:
            verdicts.append(score(answer, task, sandbox))
        except Exception as error:
            verdicts.append(error)

    began = time.perf_counter()
    thread = threading.Thread(target=grade, daemon=True)
    thread.start()
    thread.join(seconds)
    took = time.perf_counter() - began
    if not verdicts:
        return None, took
    if isinstance(verdicts[0], Exception):
        raise verdicts[0]
    return verdicts[0], took


def _too_slow(answer: str, task: Task, seconds: float) -> Finding:
    shown = answer if len(answer) <= 40 else f"{answer[:30]}... ({len(answer)} characters)"
    return Finding(
        "failed",
        f"the reward {task.reward!r} had not graded {shown!r} after {seconds:g} s",
        "training would stand still at such an answer: name another reward for these tasks",
    )


def check_prompts(subject: Subject) -> Finding:
    """Prompts must fit beside the response."""
    config, codec = subject.config, subject.codec
    prompt = config.episode.system_prompt
    bare = prompt == "none" or (prompt == "auto" and subject.knows_tool)
    system = [] if bare else [{"role": "system", "content": system_prompt(subject.format)}]
    lengths = [
        len(codec.prompt_ids([*system, {"role": "user", "content": task.prompt}]))
        for task in subject.tasks
    ]
    limit, context = config.max_prompt_tokens, subject.context_length
    wanted = limit + config.episode.max_response_tokens
    over = sum(length > limit for length in lengths)
    text = (
        f"prompts of {min(lengths)} to {max(lengths)} tokens, median {median(lengths):.0f}; "
        f"{over} of {len(lengths)} exceed --max-prompt-tokens {limit}"
    )
    details = {"longest": max(lengths), "median": median(lengths), "over": over, "limit": limit}
    if wanted > context:
        return Finding(
            "failed",
            f"{text}; prompt and response may have {wanted} tokens, and the model attends to "
            f"{context}",
            "lower --max-response-tokens or --max-prompt-tokens",
            details,
        )
    if over == len(lengths):
        return Finding("failed", text, f"raise it to {max(lengths)} at least", details)
    if over:
        return Finding(
            "warning",
            f"{text}; training skips and counts them, nothing is cut",
            f"raise it to {max(lengths)} if the context has room",
            details,
        )
    return Finding("ok", text, details=details)
