"""Page: one self-contained HTML file, from its parts next to this file and the page data."""

from __future__ import annotations

import base64
import gzip
import json
from importlib.resources import files
from typing import Any


def html(top: dict[str, Any], chunks: list[list[dict[str, Any]]] | None) -> str:
    """The page with its data; without chunks it fetches them from where it comes from."""
    data = top if chunks is None else top | {"chunks": [_packed(chunk) for chunk in chunks]}
    return fill(_inline(data))


def fill(data: str) -> str:
    """The template with its style, its script and the data, each of which it names once."""
    folder = files("cleaner_rl.view")
    page = folder.joinpath("page.html").read_text(encoding="utf-8")
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    script = folder.joinpath("page.js").read_text(encoding="utf-8")
    for mark, text in (("{{style}}", style), ("{{script}}", script), ("{{data}}", data)):
        before, found, after = page.partition(mark)
        assert found, f"the template has no {mark}"
        page = before + text + after
    return page


def _packed(chunk: list[dict[str, Any]]) -> str:
    return base64.b64encode(gzip.compress(_json(chunk).encode(), mtime=0)).decode()


def _inline(data: Any) -> str:
    """JSON that no HTML parser takes for markup: a text in it may be ``</script>`` or ``<!--``."""
    return _json(data).replace("<", "\\u003c")


def _json(data: Any) -> str:
    """ASCII; lone surrogates are escaped like any other character that is not."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False)
