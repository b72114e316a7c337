"""Size of a run's page, and milliseconds until Chromium has opened and filtered it.

    pip install playwright
    python benchmarks/view.py                     # trains the default run, minutes
    python benchmarks/view.py --run RUN           # shows a run that is there already
    python benchmarks/view.py --images docs/images  # makes the pictures of the documents, too

Needs Chromium on PATH (on Debian: ``apt install chromium``). Times are medians, each in a new
window; a filter is timed from the choice to the rows that it leaves, laid out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser, Page, sync_playwright

from cleaner_rl.runs.markdown import table
from cleaner_rl.view.data import page_data
from cleaner_rl.view.page import html
from cleaner_rl.view.source import find_source

FILTER = """([name, value]) => {
    const select = document.querySelector(`select[name=${name}]`), began = performance.now();
    select.value = value;
    select.dispatchEvent(new Event("change"));
    document.body.offsetHeight;
    return performance.now() - began;
}"""
CHOICES = (("rollback", "recovered"), ("answer", "wrong"), ("teaches", "yes"), ("sort", "gap"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="a run's directory; one is trained without it")
    parser.add_argument("--steps", type=int, default=60, help="steps of that run (%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="times that each is done (%(default)s)")
    parser.add_argument("--images", type=Path, help="directory to write pictures to")
    options = parser.parse_args()
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser_path is None:
        raise SystemExit("no chromium on PATH; on Debian: apt install chromium")
    with tempfile.TemporaryDirectory() as work, sync_playwright() as tools:
        run = options.run or trained(Path(work) / "default-run", options.steps)
        file = Path(work) / "view.html"
        top, chunks = page_data(find_source(run), None)
        file.write_text(html(top, chunks), encoding="utf-8")
        browser = tools.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        times = [measured(browser, file.as_uri()) for _ in range(options.runs)]
        rows = [[name, f"{median(one[name] for one in times):.0f} ms"] for name in times[0]]
        rows.insert(0, ["size", f"{file.stat().st_size / 1e6:.1f} MB"])
        print(table((f"page of {len(top['episodes'])} episodes", ""), rows))
        if options.images:
            take_pictures(browser, file.as_uri(), top, chunks, options.images)
        browser.close()


def trained(directory: Path, steps: int) -> Path:
    """A run of the default settings."""
    command = [sys.executable, "-m", "cleaner_rl.train", "--steps", str(steps)]
    subprocess.run([*command, "--run-dir", directory], check=True, stdout=subprocess.DEVNULL)
    return directory


def measured(browser: Browser, address: str) -> dict[str, float]:
    """Milliseconds to open the page, and of each filter."""
    page = browser.new_page()
    began = time.perf_counter()
    page.goto(address)
    page.wait_for_selector("table.rows tbody tr")
    found = {"opens": 1000 * (time.perf_counter() - began)}
    for name, value in CHOICES:
        found[f"filter {name} = {value}"] = page.evaluate(FILTER, [name, value])
        page.evaluate(FILTER, [name, ""])
    page.close()
    return found


def take_pictures(browser: Browser, address: str, top: dict, chunks: list, folder: Path) -> None:
    """The run's page, a rollback's card, and the token layer with a token's numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    episode = telling_episode(top, chunks)

    def opened(place: str, height: int, width: int = 1000) -> Page:
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(address + place)
        page.wait_for_selector("table.rows, .lanes")
        return page

    opened("#/?sort=taught", 1280, 1100).screenshot(path=folder / "view-run.png")
    page = opened(f"#/episode/{episode}", 900)
    page.locator(".card").first.screenshot(path=folder / "view-rollback.png")
    page = opened(f"#/episode/{episode}?layer=origin", 860)
    page.locator(".card summary").click()
    page.locator(".card .t.o-e", has_text=re.compile(r"\d")).first.click()
    page.evaluate("scrollTo(0, document.querySelector('.controls').offsetTop - 60)")
    page.screenshot(path=folder / "view-tokens.png")


def telling_episode(top: dict, chunks: list) -> int:
    """An episode with a right answer and one rollback, in which a short call changes a little."""

    def strangeness(number: int) -> tuple[bool, int, int]:
        row = top["episodes"][number]
        (record,) = json.loads(gzip.decompress(chunks[row["chunk"]]))[row["at"]]["rollbacks"]
        before, after = record["failed"]["code"] or "", record["answer"]["code"] or ""
        named = row["errors"] == ["NameError"]
        return not named, abs(before.count("\n") - 2), abs(len(before) - len(after))

    fitting = [
        number
        for number, row in enumerate(top["episodes"])
        if row["outcomes"] == ["recovered"] and row["correct"] and row["shallow"]
    ]
    if not fitting:
        raise SystemExit("no episode of this run has one shallow rollback and a right answer")
    return min(fitting, key=strangeness)


if __name__ == "__main__":
    main()
