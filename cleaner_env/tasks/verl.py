"""The parquet layout of verl, as Open-AgentRL-30K has it: rows read, and rows written.

Columns: ``prompt`` (a list of messages), ``reward_model`` (``ground_truth``, ``style``),
``data_source``, ``ability``, ``extra_info``. Open-AgentRL-30K mixes DAPO-Math, MegaScience,
LeetCode problems (ground truth: JSON with ``import_prefix``, ``test_code``, ``entry_point``) and
Skywork-OR1 (JSON with ``inputs``, ``outputs`` and perhaps ``fn_name``; a JSON list of answers).

Source: recipe/demystify in github.com/Gen-Verse/Open-AgentRL and its fork by CLEANER's authors.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cleaner_env.episode_io import task_from_dict, task_to_dict
from cleaner_env.formats import HermesFormat
from cleaner_env.formats.protocol import system_prompt
from cleaner_env.rewards.livecodebench import CONTEST_IMPORTS
from cleaner_env.task import Task
from cleaner_env.tasks.code_layouts import FENCED
from cleaner_env.tasks.layouts import Layout
from cleaner_env.tasks.rows import Row
from cleaner_env.tasks.spec import SourceSpec

AGENT_NAME = "cleaner_saar"
"""The name under which verl's configuration knows ``cleaner_env.integrations.verl``."""
_OWN = "cleaner_task"
"""Key in ``extra_info`` of a whole task: verl's layout has no place for most scorers."""


def verl_rows(tasks: Iterable[Task], agent_name: str = AGENT_NAME) -> Iterator[dict[str, Any]]:
    """Rows for verl that choose an agent loop of ``cleaner_env.integrations.verl`` by its name.

    Their prompts are there for verl's own filter by length; the loop writes its own.

    Raises:
        ValueError: a task's entry holds values that cannot be written.
    """
    rules = {"role": "system", "content": system_prompt(HermesFormat())}
    for index, task in enumerate(tasks):
        own = json.dumps(task_to_dict(task))
        if task_from_dict(json.loads(own)) != task:
            raise ValueError(f"task {index} ({task.family}) has an entry that JSON cannot hold")
        yield {
            "agent_name": agent_name,
            "data_source": task.family,
            "prompt": [rules, {"role": "user", "content": task.prompt}],
            "reward_model": {"style": "rule", "ground_truth": task.answer},
            "extra_info": {"index": index, _OWN: own},
        }


def read_verl(row: Row, spec: SourceSpec, seed: int) -> Task:
    """A row of a parquet file made for verl."""
    return verl_task(row.values)


def verl_task(values: Mapping[str, Any]) -> Task:
    """The task of a row: one that ``verl_rows`` made, or any other in this layout."""
    row = Row("the row", values)
    own = row.get(f"extra_info.{_OWN}")
    if own is not None:
        return task_from_dict(json.loads(own))
    model = _mapping(row.need("reward_model"), "reward_model")
    if model.get("ground_truth") is None:
        raise ValueError(f"reward_model has no ground_truth; it has {sorted(model)}")
    style = model.get("style", "rule")
    if style not in ("rule", "rule-lighteval/MATH_v2"):
        raise ValueError(f"reward_model.style {style!r} needs a reward model; only rules are known")
    prompt, family = _question(row.need("prompt")), str(row.get("data_source", default="verl"))
    truth = _parsed(model["ground_truth"])
    if isinstance(truth, Mapping):
        tests, prefix = _tests(truth)
        entry = {"tests": tests, "prefix": prefix}
        return Task(f"{prompt}\n\n{FENCED}", "", family, "code", entry)
    if isinstance(truth, list) and not truth:
        raise ValueError("reward_model.ground_truth is an empty list")
    if _are_alternatives(truth, model["ground_truth"]):
        return Task(prompt, str(truth[0]), family, "math", {"answers": [str(t) for t in truth]})
    truth = str(model["ground_truth"]).strip()
    letter = re.fullmatch(r"\(?([A-J])\)?", truth)
    if letter and "gpqa" in family.lower():
        return Task(prompt, letter[1], family, "choice")
    return Task(prompt, truth, family)


def _are_alternatives(truth: Any, written: Any) -> bool:
    """Whether any element of a ground truth is right, rather than all of them together.

    So it is in a column of lists, and in a JSON list of texts, as Skywork-OR1 has it: ``["34"]``.
    ``[-2, 7]`` and ``[[1, 2], [3, 4]]`` are answers: an interval or a list, and a matrix.
    """
    if not isinstance(truth, list):
        return False
    return not isinstance(written, str) or all(isinstance(one, str) for one in truth)


def _question(prompt: Any) -> str:
    """The text of the messages before the first answer: system text, then the question."""
    if isinstance(prompt, str):
        prompt = _parsed(prompt)
    if isinstance(prompt, str):
        return prompt.strip()
    roles = [message.get("role") for message in prompt] if isinstance(prompt, list) else None
    if roles not in (["user"], ["system", "user"]):
        raise ValueError(
            f"prompt must be a text or a list of a user's message, perhaps after a system message; "
            f"its roles are {roles}"
        )
    return "\n\n".join(str(message["content"]).strip() for message in prompt)


def _mapping(value: Any, column: str) -> Mapping[str, Any]:
    value = _parsed(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"column {column!r} must be a mapping, not {value!r:.80}")
    return value


def _parsed(value: Any) -> Any:
    """JSON that stands for a mapping or a list is read; any other text is itself."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _tests(truth: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """The tests in a ground truth, and what has to stand before the program."""
    if {"test_code", "entry_point"} <= truth.keys():
        check = {"check": truth["test_code"], "entry_point": truth["entry_point"]}
        return [check], str(truth.get("import_prefix") or "")
    if not {"inputs", "outputs"} <= truth.keys():
        raise ValueError(
            "a ground truth for programs has inputs and outputs, or test_code and entry_point; "
            f"this one has {sorted(truth)}"
        )
    pairs = list(zip(truth["inputs"], truth["outputs"], strict=True))
    name = truth.get("fn_name")
    if not name:
        return [{"input": _text(given), "output": _text(wanted)} for given, wanted in pairs], ""
    if all(isinstance(wanted, list) and len(wanted) == 1 for _, wanted in pairs):
        pairs = [(given, wanted[0]) for given, wanted in pairs]  # the convention of APPS and TACO
    return [_call(name, given, wanted) for given, wanted in pairs], CONTEST_IMPORTS


def _text(value: Any) -> str:
    """Input and output are texts; some rows have lists of lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return "\n".join(map(str, value))
    return str(value)


def _call(name: str, given: Any, wanted: Any) -> dict[str, str]:
    """A call of ``Solution().name``; arguments come as a list, or as a text with one a line."""
    if isinstance(given, str):
        given = [_literal(line) for line in given.split("\n") if line.strip()]
    if isinstance(wanted, str):
        wanted = _literal(wanted)
    arguments = ", ".join(map(repr, given))
    return {"call": f"Solution().{name}({arguments})", "returns": repr(wanted)}


def _literal(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text


VERL = Layout(read_verl)
