"""The SandboxFusion client against a small server that speaks its protocol."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sandbox import Limits, SandboxError, Status
from sandbox.fusion import FusionSandbox
from sandbox.judge import StdioTest, judge


class Service(ThreadingHTTPServer):
    """Runs programs in new processes, as the service does; `mishaps` are answered first."""

    daemon_threads = True

    def __init__(self, directory: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.directory = directory
        self.mishaps: list[tuple[int, bytes]] = []
        self.questions: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.questions.append(question)
        if self.path != "/run_code":
            self.answer(404, b"no such path")
        elif self.server.mishaps:
            self.answer(*self.server.mishaps.pop(0))
        else:
            self.answer(200, json.dumps(execute(question, self.server.directory)).encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        return


def execute(question: dict[str, Any], directory: Path) -> dict[str, Any]:
    script = directory / f"tmp{threading.get_ident()}.py"
    script.write_text(question["code"])
    started = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(script)],
            input=question["stdin"],
            capture_output=True,
            text=True,
            timeout=question["run_timeout"],
        )
    except subprocess.TimeoutExpired as error:
        text = (error.stdout or b"").decode()
        run = {"status": "TimeLimitExceeded", "return_code": None, "stdout": text, "stderr": ""}
        return {"status": "Failed", "message": "", "compile_result": None, "run_result": run}
    run = {
        "status": "Finished",
        "execution_time": time.monotonic() - started,
        "return_code": done.returncode,
        "stdout": done.stdout,
        "stderr": done.stderr,
    }
    status = "Failed" if done.returncode else "Success"
    return {"status": status, "message": "", "compile_result": None, "run_result": run}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def remote(service: Service) -> FusionSandbox:
    return FusionSandbox(service.url, pause_s=0.01, answer_s=5.0)


def test_a_good_program(remote: FusionSandbox, service: Service) -> None:
    result = remote.run("print(input())", stdin="6", limits=Limits(wall_s=3, memory_mb=99))
    assert (result.status, result.stdout, result.tier) == (Status.OK, "6\n", "fusion")
    assert result.wall_s > 0 and result.exit_code == 0
    question = service.questions[0]
    assert (question["run_timeout"], question["memory_limit_MB"]) == (3, 99)
    assert question["language"] == "python"


def test_a_failing_program(remote: FusionSandbox) -> None:
    result = remote.run("import sys; print('note', file=sys.stderr)\n1 / 0")
    assert (result.status, result.error_class) == (Status.ERROR, "ZeroDivisionError")
    assert result.stderr == "note\n" and 'File "main.py", line 2' in result.traceback
    assert remote.run("x = (").error_class == "SyntaxError"
    assert remote.run("import sys; sys.exit(3)").exit_code == 3
    assert remote.run("raise MemoryError").status is Status.MEMORY
    assert remote.run("import os; os.kill(os.getpid(), 11)").status is Status.SIGNAL


def test_a_timeout(remote: FusionSandbox) -> None:
    code = "print('so far', flush=True)\nwhile True: pass"
    result = remote.run(code, limits=Limits(wall_s=0.5))
    assert (result.status, result.stdout) == (Status.TIMEOUT, "so far\n")
    assert result.error_class == "TimeoutError"


def test_output_is_cut(remote: FusionSandbox) -> None:
    result = remote.run("print('é' * 99)", limits=Limits(output_bytes=5))
    assert result.status is Status.OUTPUT and result.stdout.startswith("éé\n[... ")


@pytest.mark.parametrize(
    "mishap",
    [
        (503, b"busy"),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"status": "SandboxError", "message": "no container"}'),
        (200, b'{"status": "Failed", "run_result": {"status": "Error"}}'),
        (200, b'{"status": "Success", "run_result": {"status": "Finished"}}'),
    ],
)
def test_a_mishap_is_retried(
    remote: FusionSandbox, service: Service, mishap: tuple[int, bytes]
) -> None:
    service.mishaps = [mishap] * 2
    assert remote.run("print(1)").stdout == "1\n"
    assert remote.faults == 2


def test_a_persistent_mishap_is_raised(remote: FusionSandbox, service: Service) -> None:
    service.mishaps = [(500, b"broken")] * 3
    with pytest.raises(SandboxError, match=r"3 times in a row.*broken"):
        remote.run("print(1)")
    assert remote.faults == 3


def test_a_refusal_is_not_retried(remote: FusionSandbox, service: Service) -> None:
    service.mishaps = [(422, b"no such language")] * 2
    with pytest.raises(SandboxError, match=r"refused.*no such language"):
        remote.run("print(1)")
    assert len(service.mishaps) == 1


def test_nobody_listens() -> None:
    with pytest.raises(SandboxError, match="3 times in a row"):
        FusionSandbox("http://127.0.0.1:9", pause_s=0.001).run("print(1)")


def test_arun_map_and_judge(remote: FusionSandbox) -> None:
    assert asyncio.run(remote.arun("print(1)")).stdout == "1\n"
    assert [r.stdout for r in remote.map(["print(1)", "print(2)"])] == ["1\n", "2\n"]
    assert judge(remote, "print(input())", [StdioTest("a", "a\n")])[0].passed


def test_closed(remote: FusionSandbox) -> None:
    with remote:
        pass
    with pytest.raises(SandboxError, match="closed"):
        remote.run("print(1)")


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="http"):
        FusionSandbox("sandbox.example:8080")
    with pytest.raises(TypeError, match="code must be a str"):
        FusionSandbox("http://127.0.0.1:9").run(b"1")  # type: ignore[arg-type]
