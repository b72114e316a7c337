"""A small OpenAI-compatible server on the loopback, whose answers a test scripts."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = str | bytes | tuple[int, Any] | None
"""The assistant's text; or the bytes of a body; or a status and a body, whose ``headers`` are sent
as such; or None, which drops the connection."""
DROP = None
RESET = b"reset"
"""Resets the connection while the answer is read."""
CUT = b'{"choices": [{"message": '
"""A body that ends before its announced length."""


class ChatServer:
    """What was asked, and how many were being answered at the same time.

    Attributes:
        url: of the API.
        requests: the bodies, in the order in which they came.
        headers: of each of them.
        busiest: most requests in the handler at once.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Answer], port: int = 0) -> None:
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

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
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
        if isinstance(answer, bytes):
            status, data, text = 200, None, answer
        else:
            status, data = answer if isinstance(answer, tuple) else (200, completion(answer))
            text = json.dumps(data).encode()
        request.send_response(status)
        headers = data.get("headers", {}) if isinstance(data, dict) else {}
        for name, value in headers.items():
            request.send_header(name, value)
        broken = text in (RESET, CUT)
        request.send_header("Content-Length", str(len(text) + 99 * broken))
        request.end_headers()
        request.wfile.write(text)
        request.close_connection |= broken
        if text == RESET:
            request.wfile.flush()
            linger = struct.pack("ii", 1, 0)  # closing sends a reset
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def completion(text: Any, tokens: int = 5, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """The body of a chat completion; more fields of the message may be named."""
    message = {"role": "assistant", "content": text, **message}
    return {
        "choices": [{"message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 11, "completion_tokens": tokens},
    }


def tool_call(code: Any, name: str = "code_interpreter", **function: Any) -> dict[str, Any]:
    """A call as a server writes it that parses calls itself; ``arguments`` may be given as they
    are."""
    arguments = function.get("arguments", json.dumps({"code": code}))
    return {"id": "x", "type": "function", "function": {"name": name, "arguments": arguments}}


@contextmanager
def serve(answer: Callable[[dict[str, Any]], Answer], port: int = 0) -> Iterator[ChatServer]:
    """A server as long as the block lasts."""
    server = ChatServer(answer, port)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
