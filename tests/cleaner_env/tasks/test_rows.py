"""Rows: read from every kind of file, and errors that name file and row."""

import sys

import pytest
from task_rows import GSM8K, one, tasks

from cleaner_env import Task
from cleaner_env.tasks.load import load_tasks


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
    with pytest.raises(ValueError, match=r"pip install -e '\.\[data\]'"):
        load_tasks(f"gsm8k:{place}")


def test_a_directory_is_read_by_datasets(write, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    write("train.jsonl", [GSM8K])
    write("test.jsonl", [{**GSM8K, "question": "4 + 1?"}])
    assert one(f"gsm8k:{tmp_path}").prompt == "2 + 3?"
    assert one(f"gsm8k:hf://{tmp_path}@hub_split=test").prompt == "4 + 1?"
    with pytest.raises(ValueError, match="split='dev'"):
        load_tasks(f"gsm8k:{tmp_path}@hub_split=dev")
