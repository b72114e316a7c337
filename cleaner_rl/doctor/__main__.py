"""Doctor: ``python -m cleaner_rl.doctor`` says what would go wrong in a training."""

from __future__ import annotations

if __name__ == "__main__":  # arguments are checked before the imports below, which take seconds
    from cleaner_rl.commands import start

    start("doctor")

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from cleaner_rl.doctor.config import parse_doctor
from cleaner_rl.doctor.machine import check_attention, check_memory, check_model, check_sandbox
from cleaner_rl.doctor.preview import check_trained_tokens, show_segments
from cleaner_rl.doctor.server import check_answer, check_conversation
from cleaner_rl.doctor.subject import Check, Finding, Subject, run_checks
from cleaner_rl.doctor.tasks import check_grader, check_prompts, check_tasks
from cleaner_rl.doctor.text import check_format, check_round_trip, check_template
from cleaner_rl.runs.provenance import made_with
from cleaner_rl.settings import flat

CHECKS: dict[str, Check] = {
    "model": check_model,
    "chat template": check_template,
    "round trip": check_round_trip,
    "tool format": check_format,
    "trained tokens": check_trained_tokens,
    "sandbox": check_sandbox,
    "tasks": check_tasks,
    "grader": check_grader,
    "prompt lengths": check_prompts,
    "memory": check_memory,
    "attention": check_attention,
}
"""What is looked at, in this order."""
_SERVER_CHECKS: dict[str, Check] = {
    "answer": check_answer,
    "conversation": check_conversation,
    **{name: CHECKS[name] for name in ("sandbox", "tasks", "grader")},
}
"""The same for a model on a server."""

_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0 when no check failed, else 1."""
    subject = Subject(parse_doctor(arguments))
    with Console(stderr=True).status("") as status:  # on a terminal only
        checks = _SERVER_CHECKS if subject.doctor.server.endpoint else CHECKS
        findings = run_checks(checks, subject, status.update)
    if subject.doctor.json:
        print(json.dumps(report(subject, findings), indent=2))
    else:
        show(subject, findings, Console())
    return int(any(finding.status == "failed" for finding in findings.values()))


def report(subject: Subject, findings: Mapping[str, Finding]) -> dict[str, Any]:
    """Everything as plain data for JSON."""
    return {
        "ok": all(finding.status != "failed" for finding in findings.values()),
        "config": flat(subject.doctor),
        "made_with": made_with(),
        "checks": [{"name": name, **asdict(finding)} for name, finding in findings.items()],
    }


def show(subject: Subject, findings: Mapping[str, Finding], console: Console) -> None:
    """The findings for people, and the scripted episode in colour."""
    width = max(map(len, findings))
    for name, finding in findings.items():
        status = (f"{finding.status:<7}  ", _STYLES[finding.status])
        line = Text.assemble(status, (f"{name:<{width}}  ", "bold"), finding.text)
        console.print(line, soft_wrap=True)
        if finding.remedy:
            console.print(Text(f"{'':<{width + 9}}  -> {finding.remedy}"), soft_wrap=True)
    for finding in findings.values():
        if segments := finding.details.get("segments"):
            show_segments(segments, console)
    statuses = [finding.status for finding in findings.values()]
    config = subject.config
    summary = (
        f"\n{config.model} on {config.tasks}, preset {config.preset}: {statuses.count('ok')} ok, "
        f"{statuses.count('warning')} warnings, {statuses.count('failed')} failed"
    )
    console.print(Text(summary), soft_wrap=True)
