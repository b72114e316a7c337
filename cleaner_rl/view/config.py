"""ViewConfig: the arguments of the viewer. The base install has no tyro: argparse reads them."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ViewConfig:
    """What is shown, and where."""

    path: Path
    out: Path | None
    step: int | None
    text: bool
    open: bool
    serve: bool


def parse_view(arguments: Sequence[str], prog: str = "cleaner-rl view") -> ViewConfig:
    """The settings that arguments give."""
    parser = ArgumentParser(
        prog=prog,
        allow_abbrev=False,
        description="Show episodes with their rollbacks, tokens and credit on a page of its own.",
    )
    add = parser.add_argument
    shown = "a run, an episode file, the --out directory of an evaluation, or a comparison"
    add("path", type=Path, help=shown)
    add("--out", type=Path, help="file to write the page to (view.html in the directory shown)")
    add("--step", type=int, help="show the episodes of this step only")
    add("--text", action="store_true", help="print transcripts in the terminal instead")
    add("--open", action="store_true", help="open the page in a browser")
    add("--serve", action="store_true", help="serve the page, as a large one without --out is")
    options = parser.parse_args(arguments)
    if options.text and (options.out or options.open or options.serve):
        parser.error("--text makes no page: leave out --out, --open and --serve")
    if options.out and options.serve:
        parser.error("--out writes the page to a file, --serve to none: leave out one of them")
    return ViewConfig(**vars(options))
