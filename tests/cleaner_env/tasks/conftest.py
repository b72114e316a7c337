"""Files of rows."""

import csv
import gzip
import json

import pytest


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
            import pyarrow.parquet  # slow

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        elif name.endswith(".json"):
            path.write_text(json.dumps(rows))
        else:
            data = "\n".join(map(json.dumps, rows)).encode()
            path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(path)

    return write_rows
