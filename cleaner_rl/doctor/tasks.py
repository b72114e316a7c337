"""Checks of tasks: that they load, are graded correctly and in time, and fit into the context."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import Future
from contextlib import nullcontext
from statistics import median

from cleaner_env.formats.protocol import system_prompt
from cleaner_env.interpreter import Sandbox
from cleaner_env.rewards import Reward, ScorerError
from cleaner_env.task import Task
from cleaner_rl.doctor.subject import Finding, Subject
from cleaner_rl.rollout.environment import reward_of
from cleaner_rl.trainer import held_out_tasks

_HOSTILE = (
    "9**9**9**9**9",
    "1e999999999",
    "(" * 3000,
    "\\frac{" * 300,
    "x" * 100_000,
    "\\sqrt{" + "+".join(f"x_{i}" for i in range(500)) + "}",
)
"""Wrong answers that have kept graders busy for hours, or killed them."""
_NONSENSE = "no such answer"


def check_tasks(subject: Subject) -> Finding:
    """The problems must load."""
    tasks, held_out = subject.tasks, held_out_tasks(subject.config)
    families = Counter(task.family for task in tasks)
    named = ", ".join(name for name, _ in families.most_common(8))
    more = f" and {len(families) - 8} more" if len(families) > 8 else ""
    return Finding(
        "ok",
        f"{len(tasks)} problems loaded, of the families {named}{more}; {len(held_out)} held out",
        details={"families": dict(families), "first": tasks[0].prompt},
    )


def check_grader(subject: Subject) -> Finding:
    """Reference answers must be right, nonsense wrong, and every answer graded in time."""
    reward = reward_of(subject.config.episode)
    runs_programs = any(map(reward.runs_programs, subject.tasks))
    # The reference programs come from the data set, so they may run without isolation.
    with Sandbox(allow_weak=True) if runs_programs else nullcontext() as sandbox:
        try:
            return _grade_all(subject, reward, sandbox)
        except ScorerError as error:
            return Finding("failed", str(error), "training would stop there; mend the scorer")


def _grade_all(subject: Subject, reward: Reward, sandbox: Sandbox | None) -> Finding:
    limit = subject.doctor.grader_seconds
    one_of_each = {(task.reward, task.family): task for task in subject.tasks}
    references = [(task.answer, task) for task in subject.tasks]
    bad = [(bad, task) for task in one_of_each.values() for bad in (_NONSENSE, *_HOSTILE)]
    slowest, wrong = 0.0, []
    for number, (answer, task) in enumerate([*references, *bad]):
        began = time.perf_counter()
        verdict = _verdict(reward, answer, task, sandbox, limit)
        judge = reward.judge_of(task)
        slowest = max(slowest, time.perf_counter() - began)
        shown = repr(answer if len(answer) <= 40 else answer[:30])
        if verdict is None:
            return Finding(
                "failed",
                f"the reward {judge} had not graded {shown} ({len(answer)} characters) "
                f"after {limit:g} s",
                "such an answer would halt training; use another reward for these tasks",
            )
        if number >= len(references) and verdict >= 1.0:
            text = f"the reward {judge} accepts {shown} as the answer {task.answer!r}"
            return Finding("failed", text, "use another reward for these tasks")
        if number < len(references) and verdict < 1.0:
            wrong.append(task)
    rewards = dict(Counter(reward.judge_of(task).strip("'") for task in subject.tasks))
    details = {"rewards": rewards, "slowest_seconds": round(slowest, 3)}
    if wrong:
        task = wrong[0]
        return Finding(
            "warning",
            f"{len(wrong)} of {len(subject.tasks)} reference answers are wrong according to their "
            f"own reward, such as {task.answer!r} ({reward.judge_of(task)}, {task.family})",
            "check that the rows name the right reward; if the reference is not an answer, as with "
            "programs that are judged by tests, this is expected",
            details,
        )
    return Finding(
        "ok",
        f"{len(subject.tasks)} reference answers are right, nonsense is wrong, and none of "
        f"{len(_HOSTILE)} hostile answers took longer than {max(slowest, 0.01):.2f} s",
        details=details,
    )


def _verdict(
    reward: Reward, answer: str, task: Task, sandbox: Sandbox | None, seconds: float
) -> float | None:
    """Grade an answer in a thread, as in training; None if that took too long."""
    verdict: Future[float] = Future()

    def grade() -> None:
        try:
            verdict.set_result(reward.score(answer, task, sandbox))
        except Exception as error:
            verdict.set_exception(error)

    # A daemon thread, so that a grader that never ends does not keep the doctor from ending.
    thread = threading.Thread(target=grade, daemon=True)
    thread.start()
    thread.join(seconds)
    return verdict.result() if verdict.done() else None


def check_prompts(subject: Subject) -> Finding:
    """Prompts must leave room for the response."""
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
    longest, middle = max(lengths), median(lengths)
    over = sum(length > limit for length in lengths)
    text = (
        f"prompts of {min(lengths)} to {longest} tokens, median {middle:.0f}; "
        f"{over} of {len(lengths)} exceed --max-prompt-tokens {limit}"
    )
    details = {"longest": longest, "median": middle, "over": over, "limit": limit}
    if wanted > context:
        text += f"; prompt and response may have {wanted} tokens; the model attends to {context}"
        remedy = "lower --max-response-tokens or --max-prompt-tokens"
        return Finding("failed", text, remedy, details)
    if over == len(lengths):
        return Finding("failed", text, f"raise it to at least {longest}", details)
    if over:
        text += "; training skips and counts them; none is truncated"
        return Finding("warning", text, f"raise it to {longest} if the context has room", details)
    return Finding("ok", text, details=details)
