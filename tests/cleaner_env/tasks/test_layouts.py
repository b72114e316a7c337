"""Layouts: the rows of published data sets become tasks."""

import base64
import json
import pickle
import zlib

import pytest
from task_rows import GSM8K, one, tasks

from cleaner_env import Task
from cleaner_env.rewards import score
from cleaner_env.tasks.load import first_tasks, load_tasks
from cleaner_env.tasks.verl import verl_rows


@pytest.mark.parametrize(
    ("kind", "row", "expected"),
    [
        ("gsm8k", GSM8K, Task("2 + 3?", "5", "gsm8k")),
        (
            "math",
            {
                "problem": "Half of 1?",
                "solution": r"It is $\boxed{\frac{1}{2}}$.",
                "level": "Level 2",
                "type": "Algebra",
            },
            Task("Half of 1?", r"\frac{1}{2}", "Algebra", entry={"difficulty": "2"}),
        ),
        (
            "math",
            {"problem": "?", "solution": r"So $n = \boxed 2$.", "type": "Algebra"},
            Task("?", "2", "Algebra"),
        ),
        ("math", {"problem": "1?", "answer": "1", "subject": "X"}, Task("1?", "1", "X")),
        ("aime", {"ID": "2024-I-1", "Problem": "?", "Answer": 25}, Task("?", "25", "aime")),
        ("aime", {"problem": "?", "answer": "025", "url": ""}, Task("?", "025", "aime")),
        ("aime", {"question": "?", "answer": "902"}, Task("?", "902", "aime")),
        (
            "asdiv",
            {"body": "A has 1.", "question": "B?", "answer": "-(1/3)"},
            Task("A has 1. B?", "-(1/3)", "asdiv"),
        ),
        (
            "asdiv",
            {"body": "A.", "question": "B?", "answer": "9 (apples)"},
            Task("A. B?", "9", "asdiv"),
        ),
        ("mawps", {"input": "A?", "target": 2.5}, Task("A?", "2.5", "mawps")),
    ],
)
def test_layouts(write, kind, row, expected):
    assert one(f"{kind}:{write('rows.jsonl', [row])}") == expected


GPQA = {
    "Record ID": "r1",
    "Question": "Which?",
    "Correct Answer": "right",
    "Incorrect Answer 1": "w1",
    "Incorrect Answer 2": "w2",
    "Incorrect Answer 3": "w3",
    "High-level domain": "Physics",
}


@pytest.mark.parametrize("name", ["gpqa.csv", "gpqa.jsonl"])
def test_choices_are_shuffled_by_the_seed(write, name):
    path = write(name, [GPQA])
    found = [tasks(f"gpqa:{path}", seed=seed)[0] for seed in range(20)]
    assert {task.answer for task in found} == set("ABCD")
    assert all(f"{task.answer}) right" in task.prompt for task in found)
    assert all(score(task.answer, task) == 1.0 for task in found)
    assert tasks(f"gpqa:{path}", seed=3) == [found[3]]


def live_code_bench(**changes):
    cases = [{"input": "3\n", "output": "6\n", "testtype": "stdin"}]
    private = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()
    return {
        "question_content": "Double it.",
        "contest_date": "2024-09-01T00:00:00",
        "difficulty": "easy",
        "starter_code": "",
        "public_test_cases": json.dumps(cases),
        "private_test_cases": private,
        "metadata": "{}",
        **changes,
    }


def test_live_code_bench_reads_stdin(write, sandbox):
    task = one(f"livecodebench:{write('lcb.jsonl', [live_code_bench()])}")
    assert "reads its input from stdin" in task.prompt
    assert score("print(2 * int(input()))", task, sandbox) == 1.0
    assert score("pass", task, sandbox) == 0.0


def test_live_code_bench_calls_a_method(write, sandbox):
    case = [{"input": "[1, 2]\n3", "output": "6", "testtype": "functional"}]
    starter = "class Solution:\n    def f(self, xs: List[int], k: int) -> int:\n        "
    row = live_code_bench(
        starter_code=starter,
        public_test_cases=json.dumps(case),
        private_test_cases=json.dumps(case),
        metadata=json.dumps({"func_name": "f"}),
    )
    task = one(f"livecodebench:{write('lcb.jsonl', [row])}")
    assert starter in task.prompt
    assert score(f"{starter}return sum(xs) + pow(k, 1, 100)", task, sandbox) == 1.0
    assert score(f"{starter}return 0", task, sandbox) == 0.0


def test_live_code_bench_by_date_and_difficulty(write):
    rows = [live_code_bench(), live_code_bench(contest_date="2025-03-01", difficulty="hard")]
    path = write("lcb.jsonl", rows)
    (late,) = tasks(f"livecodebench:{path}@since=2025-01-01")
    (early,) = tasks(f"livecodebench:{path}@until=2025-01-01,tests=public")
    assert (late.entry["difficulty"], early.entry["difficulty"]) == ("hard", "easy")
    assert len(early.entry["tests"].decode()) == 1


def verl(ground_truth, data_source="math_dapo", **changes):
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": "Q?"}],
        "ability": "X",
        "reward_model": {"ground_truth": ground_truth, "style": "rule"},
        "extra_info": {"index": "1"},
        **changes,
    }


CHECK = "def check(candidate):\n    assert candidate(nums = [1, 2], k = 3) == 6\n"


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        (verl("34"), "34"),
        (verl('["\\\\frac{1}{2}", "0.5"]', "skywork_math"), "1/2"),
        (verl("C", "gpqa_diamond"), "(C)"),
        (verl('{"inputs": ["3\\n"], "outputs": ["6\\n"]}', "code"), "print(2 * int(input()))"),
        (
            verl('{"inputs": [[[1, 2], 3]], "outputs": [[6]], "fn_name": "f"}', "code"),
            "def f(nums, k): return sum(nums) + k",
        ),
        (
            verl(
                json.dumps(
                    {
                        "import_prefix": "from typing import *\n",
                        "test_code": CHECK,
                        "entry_point": "Solution().f",
                    }
                ),
                "code",
            ),
            "class Solution:\n    def f(self, nums: List[int], k): return sum(nums) + k",
        ),
    ],
)
def test_open_agentrl_rows(write, sandbox, row, answer):
    task = one(f"open-agentrl:{write('rl.parquet', [row])}")
    assert task.prompt.startswith("Q?") and task.family == row["data_source"]
    assert score(answer, task, sandbox) == 1.0
    assert score("7", task, sandbox) == 0.0


@pytest.mark.parametrize(
    ("truth", "right", "wrong"),
    [
        ("[-2,7]", ["[-2,7]", r"-2 \le x \le 7"], ["-2", "7", "(-2,7)"]),
        ("[1, 2, 3]", ["[1, 2, 3]", "(1, 2, 3)"], ["1", "3", "[3, 2, 1]"]),
        (
            "[[1,2],[3,4]]",
            ["[[1, 2], [3, 4]]", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"],
            ["[1,2]", "[3,4]"],
        ),
        ("[5]", ["5", "[5]"], ["6"]),
        ("[0, 1)", ["0 \\le x < 1"], ["0", "[0, 1]"]),
        ('["34"]', ["34"], ["3"]),
        ('["1/3", "2"]', ["1/3", "2"], ["1/3, 2"]),
        (["1/3", "2"], ["1/3", "2"], ["1/3, 2"]),
        ([3, 4], ["3", "4"], ["3, 4"]),
    ],
)
def test_a_ground_truth_has_alternatives_only_where_it_means_them(write, truth, right, wrong):
    task = one(f"verl:{write('rl.jsonl', [verl(truth)])}")
    assert [answer for answer in (*right, *wrong) if score(answer, task)] == right


@pytest.mark.parametrize("source", ["builtin", "reasoning-gym", "humaneval"])
def test_tasks_written_for_verl_are_the_same_when_they_are_read(source, write):
    split = "test" if source == "humaneval" else "train"
    written = first_tasks(load_tasks(source, split), 30)
    path = write("rows.parquet", list(verl_rows(written)))
    assert tasks(f"verl:{path}@holdout=1,shuffle=no") == written


def test_rows_for_verl_choose_the_agent_loop_and_show_the_whole_prompt():
    (row,) = verl_rows([Task("Q?", "1", "sums")])
    assert (row["agent_name"], row["data_source"]) == ("cleaner_saar", "sums")
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    assert "<tool_call>" in row["prompt"][0]["content"]
    assert row["reward_model"]["ground_truth"] == "1"


def test_a_task_that_a_row_cannot_hold_is_not_written_for_verl():
    with pytest.raises(ValueError, match=r"task 0 \(odd\) has an entry"):
        list(verl_rows([Task("Q?", "1", "odd", entry={"tests": object()})]))


def test_a_system_message_stands_before_the_question(write):
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q?"}]
    path = write("rl.jsonl", [verl("1", prompt=prompt)])
    assert one(f"verl:{path}").prompt == "Be brief.\n\nQ?"


@pytest.mark.parametrize(
    ("kind", "row", "why"),
    [
        ("gsm8k", {"question": "?", "answer": "5"}, "no line '#### RESULT'"),
        (
            "gsm8k",
            {"query": "?", "answer": "#### 5"},
            r"'question'; the row has \['query', 'answer'",
        ),
        ("math", {"problem": "?", "solution": r"\boxed{1"}, r"no complete \\boxed"),
        ("aime", {"problem": "?", "answer": "1.5"}, "an integer from 0 to 999, not '1.5'"),
        ("gpqa", {**GPQA, "Incorrect Answer 2": None}, "'Incorrect Answer 2'"),
        ("livecodebench", live_code_bench(private_test_cases="?"), "private_test_cases"),
        ("livecodebench", live_code_bench(public_test_cases="[1]"), "public_test_cases"),
        ("livecodebench", live_code_bench(metadata="{"), "'metadata' must be a JSON object"),
        ("verl", verl(None), "no ground_truth"),
        ("verl", verl("1", reward_model="?"), "must be a mapping"),
        ("verl", verl('{"inputs": []}'), "has inputs and outputs, or test_code"),
        ("verl", verl("1", prompt=[{"role": "assistant", "content": "?"}]), "roles are"),
        ("verl", verl("1", reward_model={"ground_truth": "1", "style": "model"}), "style 'model'"),
        ("humaneval", {"prompt": "def f(", "entry_point": "f"}, "row 2"),
    ],
)
def test_a_row_that_cannot_be_read_names_file_and_row(write, kind, row, why):
    good = {
        "gsm8k": GSM8K,
        "math": {"problem": "?", "answer": "1"},
        "aime": {"problem": "?", "answer": "1"},
        "gpqa": GPQA,
        "livecodebench": live_code_bench(),
        "verl": verl("1"),
        "humaneval": {
            "prompt": "def f():\n",
            "entry_point": "f",
            "canonical_solution": "    return 1\n",
            "test": "def check(candidate):\n    assert candidate() == 1\n",
        },
    }[kind]
    path = write("rows.jsonl", [good, row])
    with pytest.raises(ValueError, match=rf"(?s)rows\.jsonl, row 2: .*{why}|rows.jsonl, {why}"):
        load_tasks(f"{kind}:{path}@holdout=1", "test")
