"""What a Result says about programs that mean no harm."""

from __future__ import annotations

import sys

import pytest

from sandbox import Limits, Sandbox, Status
from sandbox.result import LARGEST


def test_stdout_of_a_good_program(box: Sandbox) -> None:
    result = box.run("print(6 * 7)")
    assert (result.status, result.ok, result.stdout) == (Status.OK, True, "42\n")
    assert (result.stderr, result.traceback, result.error_class) == ("", "", "")
    assert result.exit_code == 0


def test_stderr_is_apart(box: Sandbox) -> None:
    result = box.run("import sys; print('a'); print('b', file=sys.stderr)")
    assert (result.stdout, result.stderr) == ("a\n", "b\n")


def test_stdin(box: Sandbox) -> None:
    assert box.run("print(input() + input())", stdin="4\n2\n").stdout == "42\n"


def test_input_on_empty_stdin(box: Sandbox) -> None:
    assert box.run("input()").error_class == "EOFError"


def test_traceback_is_that_of_a_script(box: Sandbox) -> None:
    result = box.run("def f(x):\n    return x / 0\n\nf(1)\n")
    assert result.status is Status.ERROR
    assert result.error_class == "ZeroDivisionError"
    lines = [line for line in result.traceback.splitlines() if not set(line) <= set(" ~^")]
    assert lines == [
        "Traceback (most recent call last):",
        '  File "main.py", line 4, in <module>',
        "    f(1)",
        '  File "main.py", line 2, in f',
        "    return x / 0",
        "ZeroDivisionError: division by zero",
    ]


def test_syntax_error_is_shown_as_python_does(box: Sandbox) -> None:
    result = box.run("x = 1\nprint((x)\n")
    assert result.error_class == "SyntaxError"
    assert result.traceback == (
        "  File \"main.py\", line 2\n    print((x)\n         ^\nSyntaxError: '(' was never closed\n"
    )


def test_chained_exceptions(box: Sandbox) -> None:
    result = box.run("try:\n    {}['a']\nexcept KeyError:\n    raise ValueError('b')")
    assert "During handling of the above exception" in result.traceback
    assert result.traceback.endswith("ValueError: b\n")


def test_recursion_overflow_has_a_short_traceback(box: Sandbox) -> None:
    result = box.run("def f(): f()\nf()")
    assert result.error_class == "RecursionError"
    assert len(result.traceback) < 5_000


def test_a_huge_message_is_shortened(box: Sandbox) -> None:
    result = box.run("raise ValueError('x' * 10**6)")
    assert result.error_class == "ValueError"
    assert len(result.traceback) < 5_000


@pytest.mark.parametrize("call", ["sys.exit()", "sys.exit(0)", "sys.exit(None)", "exit()"])
def test_exit_zero_is_ok(box: Sandbox, call: str) -> None:
    assert box.run(f"import sys; {call}").ok


def test_exit_non_zero(box: Sandbox) -> None:
    result = box.run("import sys; sys.exit(3)")
    assert (result.status, result.error_class, result.exit_code) == (Status.ERROR, "SystemExit", 3)


def test_exit_with_a_message(box: Sandbox) -> None:
    result = box.run("import sys; sys.exit('no luck')")
    assert (result.exit_code, result.stderr) == (1, "no luck\n")


def test_programs_run_as_main_in_a_fresh_namespace(box: Sandbox) -> None:
    assert box.run(
        "x = 1; print(__name__, sorted(k for k in globals() if k[0] != '_'))"
    ).stdout == ("__main__ ['x']\n")
    assert box.run("print(x)").error_class == "NameError"


def test_atexit_and_threads_are_waited_for(box: Sandbox) -> None:
    code = """
import atexit, threading, time
atexit.register(print, "atexit")
threading.Thread(target=lambda: (time.sleep(0.05), print("thread"))).start()
"""
    assert box.run(code).stdout == "thread\natexit\n"


def test_pickle_of_a_class_in_main(box: Sandbox) -> None:
    code = "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))).__name__)"
    assert box.run(code).stdout == "A\n"


def test_packages_of_the_environment(box: Sandbox) -> None:
    pytest.importorskip("numpy")
    assert box.run("import numpy; print(numpy.arange(3).sum())").stdout == "3\n"


def test_the_interpreter_can_be_started_again(box: Sandbox) -> None:
    if box.tier == "landlock":
        pytest.skip("in this tier programs cannot start processes")
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(5)'], check=True)"
    assert box.run(code).stdout == "5\n"


def test_the_working_directory_is_empty_and_writable(box: Sandbox) -> None:
    code = "import os; print(os.listdir()); open('a', 'w').write('b'); print(open('a').read())"
    assert box.run(code).stdout == "[]\nb\n"


def test_invalid_utf8_is_replaced(box: Sandbox) -> None:
    result = box.run(r"import sys; sys.stdout.buffer.write(b'a\xff\xfeb')")
    assert (result.ok, result.stdout) == (True, "a\ufffd\ufffdb")


def test_lone_surrogate_in_the_source(box: Sandbox) -> None:
    assert box.run("x = '\ud800'").status is Status.ERROR


def test_lone_surrogate_printed(box: Sandbox) -> None:
    assert box.run(r"print('\ud800')").error_class == "UnicodeEncodeError"


def test_nul_in_the_source(box: Sandbox) -> None:
    assert box.run("x = 1\0").status is Status.ERROR


def test_printing_a_huge_integer(box: Sandbox) -> None:
    assert box.run("print(10 ** 10_000)").error_class == "ValueError"


def test_output_at_the_limit_is_ok(box: Sandbox) -> None:
    result = box.run("print('x' * 99)", limits=Limits(output_bytes=100))
    assert (result.ok, len(result.stdout), result.stdout_bytes) == (True, 100, 100)


def test_output_over_the_limit_by_one_byte(box: Sandbox) -> None:
    result = box.run("print('x' * 100)", limits=Limits(output_bytes=100))
    mark = "\n[... 1 of 101 bytes cut ...]\n"
    assert (result.status, result.stdout) == (Status.OUTPUT, "x" * 100 + mark)
    assert (result.stdout_bytes, result.stderr_bytes) == (101, 0)


def test_a_character_cut_by_the_limit_is_dropped(box: Sandbox) -> None:
    assert box.run("print('é' * 9)", limits=Limits(output_bytes=5)).stdout.startswith("éé\n[")


def test_times(box: Sandbox) -> None:
    result = box.run("import time; time.sleep(0.2)")
    assert 0.2 <= result.wall_s < 2
    assert result.cpu_s < 0.2


def test_the_tier_is_reported(box: Sandbox) -> None:
    assert box.run("").tier == box.tier != "none"


@pytest.mark.parametrize(
    "field, value",
    [("wall_s", 0), ("cpu_s", float("nan")), ("memory_mb", 1.5), ("output_bytes", -1)],
)
def test_limits_name_the_bad_field(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Limits(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", list(LARGEST))
def test_limits_are_what_the_kernel_can_hold(box: Sandbox, field: str) -> None:
    largest = Limits(**{field: LARGEST[field]})
    assert box.run("print(1)", limits=largest).ok
    with pytest.raises(ValueError, match=f"{field} must be at most"):
        Limits(**{field: LARGEST[field] + 1})


def test_code_must_be_text(box: Sandbox) -> None:
    with pytest.raises(TypeError, match="code must be a str"):
        box.run(b"1")  # type: ignore[arg-type]


def test_builtins_is_the_module(box: Sandbox) -> None:
    assert box.run("print(__builtins__.sum([1, 2]))").stdout == "3\n"


def test_traceback_does_not_tell_where_the_interpreter_is_installed(box: Sandbox) -> None:
    result = box.run("from fractions import Fraction\nFraction('a')")
    assert 'File "/usr/lib' in result.traceback
    if sys.base_prefix != "/usr":
        assert sys.base_prefix not in result.traceback


FAST_IO = """
import io, os, sys
class Fast(io.IOBase):
    def __init__(self, file):
        self.fd = file.fileno()
        self.buffer = io.BytesIO()
        self.writable = "x" in file.mode or "r" not in file.mode
    def write(self, text):
        return self.buffer.write(text.encode())
    def flush(self):
        if self.writable:
            os.write(self.fd, self.buffer.getvalue())
            self.buffer = io.BytesIO()
assert (sys.stdin.mode, sys.stdin.name, sys.stderr.name) == ("r", "<stdin>", "<stderr>")
sys.stdout = Fast(sys.stdout)
print(42)
"""


def test_streams_of_contest_programs(box: Sandbox) -> None:
    assert box.run(FAST_IO).stdout == "42\n", box.run(FAST_IO).traceback


@pytest.mark.parametrize("file", ["open(1, 'w')", "os.fdopen(1, 'wb')"])
def test_what_a_file_of_the_program_holds_back_is_written_at_its_end(
    box: Sandbox, file: str
) -> None:
    text = "b'42'" if "wb" in file else "'42'"
    assert box.run(f"import os; out = {file}; out.write({text})").stdout == "42"
