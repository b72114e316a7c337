"""What the tests of task sources share: rows, and the tasks of a source."""

from cleaner_env.tasks.load import first_tasks, load_tasks

GSM8K = {"question": "2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}


def tasks(spec, split="test", seed=0, count=10_000):
    return first_tasks(load_tasks(spec, split, seed), count)


def one(spec):
    (task,) = tasks(f"{spec}{',' if '@' in spec else '@'}holdout=1")
    return task


def numbered(write, count, name="rows.jsonl", **columns):
    rows = [{"prompt": f"{name} {i}?", "answer": i, **columns} for i in range(count)]
    return write(name, rows)
