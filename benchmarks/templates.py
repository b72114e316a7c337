"""Hold published chat templates against the doctor and every tool-call format.

    python benchmarks/templates.py
    python benchmarks/templates.py --template my/chat_template.jinja --all

The templates are those that the package trl carries, without its variants for training and without
those for pictures. Each gets a small tokenizer with its special tokens. The doctor's checks of text
look at the template with the settings that training would use; the one for trained tokens plays an
episode with a failed call, its correction and an answer, in the chosen format and in each of the
five. Where a check fails, the option that its remedy names is tried.

Prints a Markdown table; ``--all`` prints every finding as well. The exit status is 1 when a
template neither works nor comes to work by the remedy.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cleaner_env.formats import FORMATS
from cleaner_rl.config import TrainConfig
from cleaner_rl.doctor.config import DoctorConfig
from cleaner_rl.doctor.preview import check_trained_tokens
from cleaner_rl.doctor.subject import Finding, Subject, run_checks
from cleaner_rl.doctor.text import check_format, check_round_trip, check_template
from cleaner_rl.settings import change
from cleaner_rl.sft.tokenizer import train_tokenizer

CHECKS = {
    "chat template": check_template,
    "round trip": check_round_trip,
    "tool format": check_format,
    "trained tokens": check_trained_tokens,
}
COLUMNS = ("template", "calls", "output", "instructions", "thought", "formats", "doctor")
_LEFT_OUT = ("training", "_vl", "idefics", "llava", "smolvlm")
_SPECIAL = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<\uff5c[^<>\s]{1,40}\uff5c>|<\|[a-z_]+>|<[a-z_]+\|>"
    r"|<(?:start|end)_of_turn>|\[/?[A-Z_]{3,}\]"
)
_REMEDY = re.compile(r"--(tool-format|tool-role) ([\w-]+)")
_TEXTS = ["What is 3 + 4? The answer is \\boxed{7}.", "import math\nprint(math.gcd(6, 4))"] * 4


def published() -> list[Path]:
    """The templates of the installed trl, which is not imported for that."""
    spec = find_spec("trl")
    if spec is None or spec.origin is None:
        raise SystemExit("the templates come with trl: pip install trl")
    paths = sorted(Path(spec.origin).with_name("chat_templates").glob("*.jinja"))
    return [path for path in paths if not any(part in path.stem for part in _LEFT_OUT)]


def tokenizer_of(template: str) -> Any:
    """A byte-level tokenizer that knows the template's special tokens."""
    tokenizer = train_tokenizer(_TEXTS, 320)
    special = ["<s>", "</s>", *sorted(set(_SPECIAL.findall(template)))]
    tokenizer.add_tokens(special, special_tokens=True)
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    tokenizer.chat_template = template
    return tokenizer


def subject_of(template: str, **settings: Any) -> Subject:
    """What the doctor looks at, with other settings of the training."""
    subject = Subject(DoctorConfig(weights=False, train=change(TrainConfig(), **settings)))
    subject.tokenizer = tokenizer_of(template)
    subject.model_config = SimpleNamespace()
    return subject


def row_of(template: str) -> tuple[list[str], Mapping[str, Finding], bool]:
    """A line of the table without the name, the doctor's findings, and whether it works."""
    subject = subject_of(template)
    findings = run_checks(CHECKS, subject)
    failed = [finding for finding in findings.values() if finding.status == "failed"]
    verdict = _counted(findings)
    works = not failed
    remedy = _REMEDY.search(" ".join(f"{one.text} {one.remedy}" for one in failed))
    if remedy is not None:
        settings = {remedy[1].replace("-", "_"): remedy[2]}
        again = run_checks(CHECKS, subject_of(template, **settings))
        works = all(finding.status != "failed" for finding in again.values())
        verdict += f"; with {remedy[0]} {_counted(again)}"
    if findings["chat template"].status == "failed":
        return [*[""] * 5, verdict], findings, works
    codec = subject.codec
    able = [name for name in FORMATS if _plays(template, name)]
    row = [
        subject.format.name if codec.tool_format else f"{subject.format.name} (told)",
        codec.tool_role,
        "question" if any("system" in note for note in codec.notes) else "system",
        ", ".join(codec.thinking_places) or "no",
        "all" if len(able) == len(FORMATS) else ", ".join(able),
        verdict,
    ]
    return row, findings, works


def _plays(template: str, name: str) -> bool:
    """Whether an episode is read as it was written in a format."""
    return check_trained_tokens(subject_of(template, tool_format=name)).status != "failed"


def _counted(findings: Mapping[str, Finding]) -> str:
    """Which checks warn and which fail; ok if all pass."""
    told = {
        said: ", ".join(name for name, finding in findings.items() if finding.status == status)
        for said, status in (("fails", "failed"), ("warns", "warning"))
    }
    return "; ".join(f"{said}: {names}" for said, names in told.items() if names) or "ok"


def main() -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--template", type=Path, action="append", help="another template's file")
    parser.add_argument("--all", action="store_true", help="print every finding")
    options = parser.parse_args()
    rows: dict[tuple[str, ...], list[str]] = {}
    broken = []
    for path in options.template or published():
        row, findings, works = row_of(path.read_text(encoding="utf-8"))
        rows.setdefault(tuple(row), []).append(path.stem)
        if not works:
            broken.append(path.stem)
        for name, finding in findings.items() if options.all else ():
            print(f"{path.stem}, {name}: {finding.status}, {finding.text}", file=sys.stderr)
            if finding.remedy:
                print(f"    -> {finding.remedy}", file=sys.stderr)
    print("|".join(["", *(f" {name} " for name in COLUMNS), ""]))
    print("|---" * len(COLUMNS) + "|")
    for row, names in rows.items():
        print("|".join(["", *(f" {cell} " for cell in (", ".join(names), *row)), ""]))
    for name in broken:
        print(f"{name} does not work, and no remedy helps", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
