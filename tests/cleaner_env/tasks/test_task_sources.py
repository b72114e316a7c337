"""Data sets: read from files, turned into tasks, split, filtered and mixed."""

import base64
import csv
import gzip
import json
import pickle
import sys
import zlib

import pytest

from cleaner_env import CodeToolEnv, ReasoningGymTasks, Task, TaskList
from cleaner_env.rewards import score
from cleaner_env.tasks.families import SHORT_PROGRAMS
from cleaner_env.tasks.load import first_tasks, load_tasks
from cleaner_env.tasks.mixture import TaskMixture


@pytest.fixture
def write(tmp_path):
    """Writes rows into a file and returns its path as text."""

    def write_rows(name, rows):
        path = tmp_path / name
        if name.endswith(".csv"):
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        elif name.endswith(".parquet"):
            parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
            pyarrow = pytest.importorskip("pyarrow")
            parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        elif name.endswith(".json"):
            path.write_text(json.dumps(rows))
        else:
            data = "\n".join(map(json.dumps, rows)).encode()
            path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(path)

    return write_rows


def tasks(spec, split="test", seed=0, count=10_000):
    return first_tasks(load_tasks(spec, split, seed), count)


def one(spec):
    (task,) = tasks(f"{spec}{',' if '@' in spec else '@'}holdout=1")
    return task


GSM8K = {"question": "2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}


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


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz", "r.json", "r.csv", "r.parquet"])
def test_every_kind_of_file(write, name):
    rows = [{"prompt": "a, b\nc?", "answer": "1"}, {"prompt": "d?", "answer": "2"}]
    found = tasks(f"{write(name, rows)}@shuffle=no,holdout=1")
    assert [(task.prompt, task.answer) for task in found] == [("a, b\nc?", "1"), ("d?", "2")]


def test_columns_are_mapped(write):
    row = {"Question": "q?", "meta": {"final": 7}}
    path = write("rows.jsonl", [row])
    mapped = one(f"{path}@prompt=question,answer=meta.final,reward=exact,family=seven")
    assert mapped == Task("q?", "7", "seven", "exact")


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


@pytest.mark.parametrize("name", ["r.jsonl", "r.csv", "r.parquet", "r.json"])
def test_a_wrong_column_name_names_file_and_row(write, name):
    path = write(name, [{"prompt": "a?", "answer": "1"}])
    with pytest.raises(
        ValueError, match=rf"{name}, row 1.*no value in column 'questoin'.*'prompt'"
    ):
        load_tasks(f"{path}@prompt=questoin")


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.jsonl", b'{"prompt": "a", "answer": "b"}\n{', r"a\.jsonl, row 2: Expecting"),
        ("a.jsonl", b'{"prompt": "\xff", "answer": "b"}', r"a\.jsonl, row 1: .*utf-8"),
        ("a.json", b"{}", "must hold a list"),
        ("a.json", b"[1]", "row 1: a row must be a JSON object"),
        ("a.csv", b'prompt,answer\na,1\nb,"2\n', "a.csv, line"),
        ("a.csv", b"prompt,answer\na,1\nb\n", r"a\.csv, row 2 \(line 3\): 2 fields expected"),
        ("a.parquet", b"nothing", "cannot read tasks from .*a.parquet"),
        ("a.jsonl.gz", b"nothing", "cannot read tasks from .*a.jsonl.gz"),
        ("a.txt", b"", "must end in one of"),
        ("a.jsonl", b"\n\n", "holds no tasks"),
    ],
)
def test_unreadable_files(tmp_path, name, content, why):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=why):
        load_tasks(f"rows:{path}")


@pytest.mark.parametrize("package", ["pyarrow", "datasets"])
def test_a_missing_package_is_named(write, tmp_path, monkeypatch, package):
    place = write("rows.parquet", [GSM8K]) if package == "pyarrow" else str(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r"pip install 'cleaner-rl\[data\]'"):
        load_tasks(f"gsm8k:{place}")


def test_a_directory_is_read_by_datasets(write, tmp_path, tmp_path_factory, monkeypatch):
    pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    write("train.jsonl", [GSM8K])
    write("test.jsonl", [{**GSM8K, "question": "4 + 1?"}])
    assert one(f"gsm8k:{tmp_path}").prompt == "2 + 3?"
    assert one(f"gsm8k:hf://{tmp_path}@hub_split=test").prompt == "4 + 1?"
    with pytest.raises(ValueError, match="split='dev'"):
        load_tasks(f"gsm8k:{tmp_path}@hub_split=dev")


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("gsm8k", "which file"),
        ("gsm9k:a.jsonl", "unknown tasks 'gsm9k:a.jsonl'"),
        ("gsm8k:{}@weigth=2", r"unknown options \['weigth'\]"),
        ("gsm8k:{}@level=2", r"unknown options \['level'\]"),
        ("gsm8k:{}@holdout=2", "between 0 and 1, not '2'"),
        ("gsm8k:{}@limit=many", "must be a number"),
        ("gsm8k:{}@shuffle=maybe", r"one of \['yes', 'no'\]"),
        ("gsm8k:{}@limit=1,limit=2", "each once"),
        ("gsm8k:{}@limit=", "NAME=VALUE"),
        ("gsm8k:{}@rate=x", "min_rate or max_rate"),
        ("gsm8k:{}@max_rate=0.5", "rate=COLUMN or rates=FILE"),
        ("gsm8k:{} + ", "empty task source"),
        ("", "empty task source"),
        ([], "empty task source"),
        ([("gsm8k:a.jsonl", 0.5)], "are texts"),
        ("reasoning-gym:gcd@level=99", "go from 0 to 3"),
        ("reasoning-gym:gcd@level=hard", "must be a number"),
        ("reasoning-gym@weigth=2", "unknown options"),
        ("hf://openai/gsm8k@no=1", "unknown options"),
    ],
)
def test_a_spec_that_cannot_be_meant_is_refused(write, spec, why):
    if isinstance(spec, str):
        spec = spec.replace("{}", write("rows.jsonl", [GSM8K]))
    with pytest.raises(ValueError, match=why):
        load_tasks(spec)


def test_a_set_of_families_and_families_by_name_make_one_source():
    source = load_tasks("reasoning-gym:short-programs,letter_counting")
    families = [source[index].family for index in range(13)]
    assert families == [*SHORT_PROGRAMS, "letter_counting"]
    assert source.select("time_intervals")[0].family == "time_intervals"


def numbered(write, count, name="rows.jsonl", **columns):
    rows = [{"prompt": f"{name} {i}?", "answer": i, **columns} for i in range(count)]
    return write(name, rows)


@pytest.mark.parametrize("holdout", [0.0, 0.1, 0.3, 1.0])
def test_every_task_is_in_one_split(write, holdout):
    spec = f"{numbered(write, 400)}@holdout={holdout}"
    parts = []
    for split in ("train", "test"):
        try:
            parts.append({task.prompt for task in tasks(spec, split)})
        except ValueError:
            parts.append(set())
    train, test = parts
    assert train.isdisjoint(test) and len(train | test) == 400
    assert len(test) == pytest.approx(400 * holdout, abs=25)


def test_the_split_does_not_depend_on_other_rows_or_the_seed(write):
    few, many = numbered(write, 40), numbered(write, 80)
    small = {task.prompt for task in tasks(few, "train", seed=1)}
    assert small == {t.prompt for t in tasks(many, "train", seed=2)} & small


def test_the_seed_shuffles(write):
    path = numbered(write, 40)
    one_order, other = (tasks(path, "train", seed=seed) for seed in (1, 2))
    assert tasks(path, "train", seed=1) == one_order != other
    assert {task.prompt for task in one_order} == {task.prompt for task in other}


def test_limit_takes_the_first(write):
    path = numbered(write, 40)
    assert tasks(f"{path}@limit=5", "train") == tasks(path, "train")[:5]


def test_benchmarks_are_not_trained_on_by_accident(write):
    path = write("aime.jsonl", [{"problem": f"{i}?", "answer": "1"} for i in range(30)])
    assert len(tasks(f"aime:{path}")) == 30
    with pytest.raises(ValueError, match="held out for evaluation"):
        load_tasks(f"aime:{path}", "train")
    assert len(tasks(f"aime:{path}@holdout=0", "train")) == 30


def test_official_splits_side_by_side(write):
    train = numbered(write, 9, "train.jsonl")
    test = numbered(write, 5, "test.jsonl")
    spec = f"{train}@holdout=0 + {test}@holdout=1"
    assert {t.prompt.split(".")[0] for t in tasks(spec, "train")} == {"train"}
    assert {t.prompt.split(".")[0] for t in tasks(spec, "test")} == {"test"}


def test_a_mixture_keeps_its_weights(write):
    spec = [f"{numbered(write, 50, 'a.jsonl')}@weight=3,holdout=0", numbered(write, 50, "b.jsonl")]
    source = load_tasks(spec)
    names = [source[i].prompt[0] for i in range(4000)]
    assert names.count("a") == 3000 and names[:40].count("b") in range(3, 20)
    assert [source[i] for i in (7, 3999, 7)] == [source[7], source[3999], source[7]]


def test_a_mixture_repeats_no_task_before_all_have_come(write):
    source = load_tasks([f"{numbered(write, 30, f'{n}.jsonl')}@holdout=0" for n in "ab"])
    first = first_tasks(source, 60)
    assert len({task.prompt for task in first}) == 60
    assert first_tasks(source, 1000) == first
    assert first_tasks(source, 7) == first[:7]


def test_a_mixture_with_an_endless_source():
    source = TaskMixture([TaskList([Task("a?", "1")]), ReasoningGymTasks(["gcd"])], [1, 1])
    prompts = [task.prompt for task in first_tasks(source, 20)]
    assert prompts.count("a?") == 1 and len(prompts) == 20


def test_problems_are_kept_by_their_rate(write):
    rows = [{"prompt": f"{i}?", "answer": i, "info": {"rate": i / 10}} for i in range(11)]
    spec = f"{write('rows.jsonl', rows)}@holdout=0,shuffle=no,rate=info.rate"
    assert [t.answer for t in tasks(f"{spec},min_rate=0.2,max_rate=0.4", "train")] == list("234")
    assert [t.answer for t in tasks(f"{spec},max_rate=0.1", "train")] == list("01")


def test_rates_of_a_file_are_averaged_over_episodes(write):
    path = numbered(write, 3)
    scores = {"0": (0, 0), "1": (0, 1), "2": (1, 1)}
    rows = [
        {"task": {"prompt": f"rows.jsonl {i}?"}, "score": s}
        for i, two in scores.items()
        for s in two
    ]
    rates = write("episodes.jsonl", rows)
    spec = f"{path}@holdout=0,rates={rates},min_rate=0.1,max_rate=0.9"
    assert [task.answer for task in tasks(spec, "train")] == ["1"]


def test_problems_without_a_rate_are_not_dropped_silently(write):
    rates = write("rates.jsonl", [{"prompt": "rows.jsonl 1?", "rate": 0.5}])
    spec = f"{numbered(write, 3)}@holdout=0,rates={rates},min_rate=0.1"
    with pytest.raises(ValueError, match=r"2 problems have no success rate, the first is .*row 1"):
        load_tasks(spec)
    assert len(tasks(f"{spec},unrated=drop", "train")) == 1
    assert len(tasks(f"{spec},unrated=keep", "train")) == 3


def test_a_rate_that_is_none_names_file_and_row(write):
    rates = write("rates.jsonl", [{"prompt": "a", "rate": 1}, {"prompt": "b", "rate": "often"}])
    with pytest.raises(ValueError, match=r"rates\.jsonl, row 2: a success rate lies between 0"):
        load_tasks(f"{numbered(write, 3)}@rates={rates},min_rate=0.1")


def test_levels_of_difficulty():
    easy, hard = (load_tasks(f"reasoning-gym:gcd,lcm@level={level}", seed=1) for level in (0, 3))
    assert [easy[i].family for i in range(2)] == ["gcd", "lcm"]
    assert max(len(easy[2 * i].prompt) for i in range(20)) < max(
        len(hard[2 * i].prompt) for i in range(20)
    )
    assert all(score(hard[i].answer, hard[i]) == 1.0 for i in range(6))


@pytest.fixture
def env(write):
    rows = [
        {"problem": f"{i}?", "answer": i, "type": "odd" if i % 2 else "even", "level": i // 5}
        for i in range(10)
    ]
    return CodeToolEnv(f"math:{write('math.jsonl', rows)}@holdout=0")


def test_options_pick_a_family_and_a_difficulty(env):
    drawn = set()
    for _ in range(60):
        env.reset(options={"family": "odd", "difficulty": 1})
        drawn.add(env.episode.task.answer)
    assert drawn == {"5", "7", "9"}


def test_options_pick_an_index_within_a_family(env):
    for index in (0, 1, 2):
        _, info = env.reset(options={"family": "even", "index": index})
        assert info["family"] == "even"


def test_an_option_that_nothing_fits_says_what_there_is(env):
    with pytest.raises(ValueError, match=r"families \['even', 'odd'\].*\['0', '1'\]"):
        env.reset(options={"family": "prime"})
    with pytest.raises(ValueError, match="either 'task', or"):
        env.reset(options={"task": {"prompt": "?", "answer": "1"}, "family": "odd"})


def test_options_of_generated_tasks():
    env = CodeToolEnv("reasoning-gym:gcd,lcm")
    _, info = env.reset(seed=1, options={"family": "lcm", "difficulty": 0})
    assert info["family"] == "lcm"
    with pytest.raises(ValueError, match="no family 'sum' here"):
        env.reset(options={"family": "sum"})
    with pytest.raises(ValueError, match="a difficulty of reasoning-gym is a level"):
        env.reset(options={"difficulty": "hard"})


def test_a_source_without_select_says_so():
    class Endless:
        def __getitem__(self, index):
            return Task(str(index), "1")

    with pytest.raises(ValueError, match="Endless cannot pick tasks"):
        CodeToolEnv(Endless()).reset(options={"family": "odd"})


def test_a_mixture_picks_from_the_sources_that_have_the_family():
    odd, even = ([Task(f"{n}{i}?", "1", n) for i in range(5)] for n in ("odd", "even"))
    source = TaskMixture([TaskList(odd), TaskList(odd + even)], [1, 1])
    assert {source.select("even")[i].prompt for i in range(20)} == {t.prompt for t in even}
    with pytest.raises(ValueError, match="no task of family 'prime'"):
        source.select("prime")
