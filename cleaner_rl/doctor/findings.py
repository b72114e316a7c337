"""Findings: what the doctor's checks say, and running checks so that one crash stops no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from cleaner_rl.errors import UserError

Status = Literal["ok", "warning", "failed"]
Subject = TypeVar("Subject")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        status: ``ok``; ``warning``: works, but look at it; ``failed``: will not work.
        text: what was found.
        remedy: what to do about it; "" where there is nothing to do.
        details: more of it, for ``--json``.
    """

    status: Status
    text: str
    remedy: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


Check = Callable[[Subject], Finding]


def run_checks(checks: Mapping[str, Check[Subject]], subject: Subject) -> dict[str, Finding]:
    """Every check's finding, in their order. A check that raises has failed; the others run on.

    What several checks fail at for the same reason, such as a model that cannot be loaded, is told
    once; the later ones refer to it.
    """
    findings: dict[str, Finding] = {}
    for name, check in checks.items():
        finding = _run(check, subject)
        same = [n for n, f in findings.items() if f.status == "failed" and f.text == finding.text]
        if same and finding.status == "failed":
            finding = Finding("failed", f"not checked, for the reason given under '{same[0]}'")
        findings[name] = finding
    return findings


def _run(check: Check[Subject], subject: Subject) -> Finding:
    try:
        return check(subject)
    except UserError as error:
        return Finding("failed", str(error))
    except Exception as error:  # whatever it is, it belongs into the report
        return Finding(
            "failed",
            f"the check itself broke: {type(error).__name__}: {error}",
            "report this, with the output of --json",
        )
