"""A small OpenAI-compatible server on the loopback, whose answers a test scripts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = str | tuple[int, dict[str, Any]] | None
"""The assistant's text; or a status and a body; or None, which drops the connection."""
DROP = None


class ChatServer:
    """What was asked, and how many were being answered at the same time.

    Attributes:
        url: of the API.
        requests: the bodies, in the order in which they came.
        headers: of each of them.
        busiest: most requests in the handler at once.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Answer]) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.busiest = self._inside = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.handle(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        with self._lock:
            self.requests.append(body)
            self.headers.append(dict(request.headers) | {"path": request.path})
            self._inside += 1
            self.busiest = max(self.busiest, self._inside)
        try:
            answer = self.answer(body)
        finally:
            with self._lock:
                self._inside -= 1
        if answer is DROP:
            request.close_connection = True
            return
        status, data = answer if isinstance(answer, tuple) else (200, completion(answer))
        text = json.dumps(data).encode()
        request.send_response(status)
        headers = data.get("headers", {}) if isinstance(data, dict) else {}
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text)


def completion(text: str | None, tokens: int = 5, finish: str = "stop") -> dict[str, Any]:
    """The body of a chat completion."""
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 11, "completion_tokens": tokens},
    }


@contextmanager
def serve(answer: Callable[[dict[str, Any]], Answer]) -> Iterator[ChatServer]:
    """A server as long as the block lasts."""
    server = ChatServer(answer)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
