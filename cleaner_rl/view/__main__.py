"""The viewer: ``python -m cleaner_rl.view``, which shows what happened in episodes."""

from __future__ import annotations

if __name__ == "__main__":
    from cleaner_rl.commands import start

    start("view")

import webbrowser
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from cleaner_rl.errors import UserError
from cleaner_rl.runs.files import write_whole, writing
from cleaner_rl.view.config import ViewConfig, parse_view
from cleaner_rl.view.data import page_data
from cleaner_rl.view.page import html, served
from cleaner_rl.view.source import find_source
from cleaner_rl.view.text import describe, printer

LARGE = 25_000_000
"""Bytes of chunks from which on they are served one by one instead of written into the page."""


def main(arguments: Sequence[str]) -> int:
    """Run the command: write the page, serve it, or print transcripts."""
    config = parse_view(arguments)
    source = find_source(config.path)
    if config.text:
        show = printer()
        for part in source.parts:
            for logged in part.episodes(config.step):
                show(describe(logged))
        return 0
    top, chunks = page_data(source, config.step)
    if not top["episodes"]:
        raise UserError(f"step {config.step} of {config.path} has no episodes; leave out --step")
    large = sum(map(len, chunks)) > LARGE
    if config.serve or (large and config.out is None):
        with served(top, chunks) as address:
            print(f"{address}  (Ctrl-C ends it)", flush=True)
            if config.open:
                webbrowser.open(address)
            Event().wait()
    path = _page_path(config)
    with writing(path, "name another file with --out"):
        write_whole(path, html(top, chunks))
    print(path)
    if config.open:
        webbrowser.open(path.resolve().as_uri())
    return 0


def _page_path(config: ViewConfig) -> Path:
    """``--out``, or a file in the directory that is shown, or next to the file."""
    if config.out is not None:
        return config.out
    if config.path.is_dir():
        return config.path / "view.html"
    name = config.path.name.removesuffix(".gz").removesuffix(".jsonl")
    return config.path.with_name(f"{name}.html")
