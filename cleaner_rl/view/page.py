"""Page: one self-contained HTML file, or a local server that shows it."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from cleaner_rl.view.data import as_json

_SCRIPTS = ("text", "curves", "lists", "tokens", "episode", "main")


def html(top: dict[str, Any], chunks: Sequence[bytes] | None) -> str:
    """The page with its data; without chunks it fetches them from where it comes from."""
    if chunks is not None:
        top = top | {"chunks": [base64.b64encode(chunk).decode() for chunk in chunks]}
    style = _part("page.css")
    script = '"use strict";\n' + "\n".join(_part(f"page.{name}.js") for name in _SCRIPTS)
    connect = "'self'" if chunks is None else "'none'"
    # Nothing else runs here, and a page that has its data reaches nobody.
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        f"img-src data:; connect-src {connect}; "
        "base-uri 'none'; form-action 'none'"
    )
    # No HTML parser takes this for markup, even if a text in it is ``</script>`` or ``<!--``.
    data = as_json(top).replace("<", "\\u003c")
    page = _part("page.html")
    # The data last: they may contain any mark.
    parts = {"policy": policy, "style": style, "script": script, "data": data}
    for name, text in parts.items():
        before, mark, after = page.partition(f"{{{{{name}}}}}")
        assert mark, f"the template has no place for {name}"
        page = before + text + after
    return page


def _part(name: str) -> str:
    return files("cleaner_rl.view").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@contextmanager
def served(top: dict[str, Any], chunks: Sequence[bytes]) -> Iterator[str]:
    """Serve the page to this machine inside the block; gives its address."""
    page = html(top, None).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # A page of another site may reach this port, but not under this name.
            known = self.headers.get("Host") == f"127.0.0.1:{server.server_port}"
            folder, _, name = self.path.lstrip("/").rpartition("/")
            if known and self.path == "/":
                self._answer(page, "text/html; charset=utf-8")
            elif known and folder == "chunks" and name.isdecimal() and int(name) < len(chunks):
                self._answer(chunks[int(name)], "application/json", encoding="gzip")
            else:
                self.send_error(404 if known else 403)

        def _answer(self, body: bytes, kind: str, encoding: str = "identity") -> None:
            self.send_response(200)
            for name, value in (("Type", kind), ("Encoding", encoding), ("Length", len(body))):
                self.send_header(f"Content-{name}", str(value))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
