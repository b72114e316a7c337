"""The page in a real browser. ``.ci/integrations browser`` installs what it takes."""

import gzip
import json
import shutil

import pytest
from logged import play, rows_of

from cleaner_env import Completion, Episode, Task, write_episodes
from cleaner_env.episode import Turn
from cleaner_env.episode_io import json_line
from cleaner_env.formats.protocol import ParsedTurn
from cleaner_rl.grpo.groups import Group
from cleaner_rl.view.data import page_data
from cleaner_rl.view.page import html, served
from cleaner_rl.view.source import find_source

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no chromium on this machine", allow_module_level=True)

SLIPS = ("a[print(x)]", "b[print(y)]", "c[z = 3]", "ok")
"""A shallow splice that fails, a deep one that works, then an answer."""
HOSTILE = (
    "<script>window.hit = 1</script><img src=x onerror='window.hit = 2'>\u202egnp\u0000 {{data}}"
)
LONG = "x" * 1_000_000
REPAIRED, SLIPPED = 1, 3  # the episodes of the run: right, right after a splice, and two wrong ones


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as tools:
        shown = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield shown
        shown.close()


@pytest.fixture
def open_page(browser):
    """Opens an address and gives the page; afterwards nothing was reported, and nobody asked."""
    reports, requests, contexts = [], [], []

    def open_page(address, width=1200, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: reports.append(message.text))
        page.on("pageerror", lambda error: reports.append(str(error)))
        page.on("request", lambda request: requests.append(request.url.partition("#")[0]))
        page.goto(address)
        page.wait_for_selector("h1")
        return page

    open_page.requests, open_page.reports = requests, reports
    yield open_page
    for context in contexts:
        context.close()
    assert reports == []


@pytest.fixture(scope="module")
def run(sandbox, tmp_path_factory):
    """A run of two steps with the credit rule ``branched``."""
    directory = tmp_path_factory.mktemp("runs") / "a-run"
    (directory / "episodes").mkdir(parents=True)
    right, repaired = play(sandbox, "a[3]", "k"), play(sandbox, *SLIPS, gamma=0.5)
    wrong, slipped = play(sandbox, "a[print(4)]", "no"), play(sandbox, *SLIPS, gamma=0.5)
    group = Group.of([right, repaired, wrong, slipped], [1.0, 1.0, 0.0, 0.0], branch_reward=0.0)
    alike = Group.of([play(sandbox, "a[print(3)]", "ok") for _ in range(2)], [1.0, 1.0])
    for step, one in enumerate((group, alike), start=1):
        rows = rows_of([one], [one], "branched")
        lines = [json_line(row | {"training": row["training"] | {"step": step}}) for row in rows]
        (directory / "episodes" / f"step-{step:06d}.jsonl").write_text("\n".join(lines) + "\n")
    steps = [{"step": step, "reward": 0.25 * step, "entropy": 0.5} for step in (1, 2)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in steps))
    (directory / "config.json").write_text(json.dumps({"gamma": 0.5, "credit": "branched"}))
    return directory


@pytest.fixture(scope="module")
def address(run):
    """The page of the run, as a file."""
    return _written(run, run / "view.html")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of an episode of plain text that would like to be more."""
    folder = tmp_path_factory.mktemp("hostile")
    call = ParsedTurn(HOSTILE, LONG, LONG, None, len(HOSTILE))
    task = Task(prompt=HOSTILE, answer=HOSTILE, family=HOSTILE)
    turn = Turn(Completion(HOSTILE + LONG), call, HOSTILE, False, "<b>Error</b>")
    prompt = [{"role": "user", "content": HOSTILE}]
    episode = Episode(task, prompt, [turn], [turn], answer=HOSTILE, truncated=True)
    write_episodes(folder / "episodes.jsonl", [episode])
    return _written(folder / "episodes.jsonl", folder / "view.html")


def _written(source, path):
    path.write_text(html(*page_data(find_source(source), None)), encoding="utf-8")
    return path.as_uri()


def rows(page):
    return page.locator("table.rows tbody tr").count()


def test_the_page_opens_from_disk_and_asks_nobody(open_page, address):
    page = open_page(address)
    assert page.title() == "a-run" and rows(page) == 6
    assert page.locator(".curves figure").count() == 2
    for place in ("#/group/0", f"#/episode/{REPAIRED}?layer=entropy&raw=1"):
        page.goto(address + place)
    page.wait_for_selector(".tokens")
    assert set(open_page.requests) == {address}


def test_a_script_that_gets_into_the_page_does_not_run(open_page, address):
    page = open_page(address)
    page.evaluate(
        """addEventListener("securitypolicyviolation", (e) => (window.refused = e.blockedURI));
        document.body.append(
            Object.assign(document.createElement("script"), {textContent: "window.hit = 1"}))"""
    )
    page.wait_for_function("window.refused === 'inline'")
    assert page.evaluate("window.hit") is None
    assert "Content Security Policy" in open_page.reports.pop()


@pytest.mark.parametrize(
    ("name", "value", "left"),
    [
        ("step", "2", 2),
        ("answer", "wrong", 6),
        ("rollback", "recovered", 2),
        ("rollback", "none", 4),
        ("error", "NameError", 2),
        ("teaches", "no", 2),
    ],
)
def test_a_filter_leaves_the_episodes_that_fit(open_page, address, name, value, left):
    page = open_page(address)
    page.select_option(f"select[name={name}]", value)
    assert rows(page) == left
    assert open_page(page.url).locator("table.rows tbody tr").count() == left
    page.click("text=Show all")
    assert rows(page) == 6 and page.url == address + "#/"


def test_words_of_an_error_are_searched(open_page, address):
    page = open_page(address)
    page.keyboard.press("/")
    page.keyboard.type("nameerror")
    assert rows(page) == 2


def test_the_episode_that_taught_most_comes_first(open_page, address):
    page = open_page(address)
    page.select_option("select[name=sort]", "taught")
    first = page.locator("table.rows tbody tr").first
    assert first.locator("a.stop").get_attribute("href") == f"#/episode/{REPAIRED}"


def test_a_click_on_a_curve_lists_the_episodes_of_that_step(open_page, address):
    page = open_page(address)
    chart = page.locator(".curves svg").first
    chart.click(position={"x": chart.bounding_box()["width"] - 5, "y": 20})
    assert rows(page) == 2 and page.locator("select[name=step]").input_value() == "2"


def test_a_group_shows_its_tries_side_by_side(open_page, address):
    page = open_page(address + "#/group/0")
    cards = page.locator(".member")
    assert cards.count() == 4
    assert "✓ right" not in cards.nth(2).inner_text()
    assert "↺ replaced by" in cards.nth(REPAIRED).inner_text()
    assert cards.filter(has_text="★ taught most").count() == 1


def test_a_rollback_is_a_card_that_tells_what_happened(open_page, address):
    page = open_page(address + f"#/episode/{REPAIRED}")
    first, second = page.locator(".card").all()
    assert "NameError → the correction fails too" in first.inner_text()
    told = second.inner_text()
    assert "NameError → the correction works" in told and "print(y)" in told
    assert (
        "deep" in told
        and "below \N{GREEK SMALL LETTER GAMMA} 0.5" in told
        and "tokens thrown away" in told
    )
    assert "This is what stays" in told and "G grafted from the correction" in told
    second.locator("summary").click()
    assert "print(y)" not in second.inner_text() and "z = 3" in second.inner_text()


def test_the_raw_lane_shows_what_was_really_sampled(open_page, address):
    page = open_page(address + f"#/episode/{REPAIRED}")
    assert not page.locator(".raw").is_visible()
    page.keyboard.press("r")
    assert page.locator(".raw article").count() == 4
    assert page.locator(".raw .taken").count() == 2
    assert open_page(page.url).locator(".raw").is_visible()


def test_a_link_leads_to_a_token_and_the_arrows_move_on(open_page, address):
    page = open_page(address + f"#/episode/{REPAIRED}/token/1")
    panel = page.locator("#inspector")
    assert page.locator(".t.selected").inner_text() == "c"
    told = panel.inner_text()
    assert "number 1 of 54" in told and "grafted here" in told
    assert "\N{MINUS SIGN}3.0000 (5.0%)" in told
    assert "\N{MINUS SIGN}0.5000 (60.7%)" in told and "+2.5000" in told and "0.250" in told
    page.keyboard.press("ArrowRight")
    assert page.locator(".t.selected").inner_text() == "["
    assert f"#/episode/{REPAIRED}/token/2?" in page.url
    page.keyboard.press("u")
    assert panel.is_hidden() and "token" not in page.url


def test_the_arrows_unfold_a_long_turn(open_page, run, tmp_path):
    top, chunks = page_data(find_source(run), None)
    details = json.loads(gzip.decompress(chunks[0]))
    lane = details[0]["tokens"]["lanes"][0]
    lane["ids"] = [ord("a")] * 5000
    lane["origin"], lane["sampled"], lane["turn"] = "s" * 5000, [None] * 5000, [[5000, 0]]
    (tmp_path / "long.html").write_text(html(top, [gzip.compress(json.dumps(details).encode())]))
    page = open_page((tmp_path / "long.html").as_uri() + "#/episode/0/token/4000")
    assert page.locator(".t.selected").get_attribute("data-t") == "4000"
    assert page.locator(".tokens .t").count() == 4001
    page.keyboard.press("ArrowRight")
    assert page.locator(".t.selected").get_attribute("data-t") == "4001"


def test_the_pointer_shows_the_numbers_of_a_token(open_page, address):
    page = open_page(address + f"#/episode/{REPAIRED}?layer=loss")
    page.locator(".tokens .t").first.hover()
    assert "No: only what the model writes is trained" in page.locator("#inspector").inner_text()


def test_the_tab_key_reaches_the_tokens(open_page, address):
    page = open_page(address + f"#/episode/{REPAIRED}?layer=loss")
    page.locator("#raw").focus()
    assert page.locator("#inspector").is_hidden()
    page.keyboard.press("Tab")
    assert "the problem" in page.locator("#inspector").inner_text()


def test_the_credit_switch_recolours_the_episode(open_page, address):
    page = open_page(address + f"#/episode/{SLIPPED}/token/1?layer=loss")
    failed = page.locator(".side.failed h4").first

    def switched(rule):
        page.click(f"[data-rule={rule}]")
        trained = page.locator(".lanes .t.trained").count()
        return trained, failed.inner_text(), page.locator("#inspector").inner_text()

    trained, chip, reason = switched("purified")
    assert trained == 12 and "not trained" in chip and "Yes: it is made less likely" in reason
    trained, chip, reason = switched("contrastive")
    assert trained == 3 and "made less likely" in chip and "leaves grafted tokens out" in reason
    trained, chip, reason = switched("branched")
    assert trained == 12 and "made less likely" in chip
    assert page.locator(".extras article:visible").count() == 3
    assert "credit=branched" in page.url


def test_what_no_pass_computed_is_said_to_be_so(open_page, address):
    page = open_page(address + "#/episode/4/token/1?layer=entropy")
    assert page.locator("#inspector").inner_text().count("not computed") == 3
    assert page.locator(".lanes .t.none").count() == page.locator(".lanes .t.o-s").count() > 0


def test_hostile_text_is_text(open_page, hostile):
    page = open_page(hostile)
    for place in ("#/group/0", "#/episode/0?raw=1"):
        assert page.locator("h1, td.problem").first.inner_text()
        assert page.evaluate("window.hit") is None
        assert page.locator("main script, main img").count() == 0
        assert page.locator(".unseen").filter(has_text="U+202E").count() > 0
        page.goto(hostile + place)
        page.wait_for_selector("h1 ~ *")
    said = page.locator(".lane .prose").nth(1)
    assert said.inner_text().startswith("<script>window.hit = 1</script><img src=x")
    assert "U+0000 {{data}}" in said.inner_text()
    assert "✗ Failed: <b>Error</b>" in page.locator(".lane").first.inner_text()
    assert "Tokens and credit: not computed" in page.inner_text("main")


def test_a_long_line_is_folded_and_unfolds_part_by_part(open_page, hostile):
    page = open_page(hostile + "#/episode/0")
    code = page.locator(".lane pre.code").first
    shown = len(code.inner_text())
    assert shown < 10_000 and "show more: 996,000 characters left" in code.inner_text()
    code.locator("button").click()
    assert len(code.inner_text()) > shown + 50_000
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_keys_move_through_the_pages(open_page, address):
    page = open_page(address)
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector(".lanes")
    assert page.url.endswith(f"#/episode/{REPAIRED}")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("location.hash === '#/episode/2'")
    page.keyboard.press("u")
    page.wait_for_selector(".members")
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.click("text=Close")
    assert not page.locator("dialog").is_visible()
    page.keyboard.press("u")
    page.wait_for_selector("table.rows")


@pytest.mark.parametrize("width", [375, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_fits_and_has_contrast(open_page, address, width, scheme):
    page = open_page(address, width, scheme)
    layers = ("text", "origin", "loss", "advantage", "gap")
    for place in ("#/", "#/group/0", *(f"#/episode/{SLIPPED}?raw=1&layer={one}" for one in layers)):
        page.goto(address + place)
        page.wait_for_function("document.querySelector('h1')")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, place
        assert page.evaluate(FAINT) == [], place


FAINT = """() => {
    const pen = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const over = (colors) => {
        pen.clearRect(0, 0, 1, 1);
        for (const color of colors) { pen.fillStyle = color; pen.fillRect(0, 0, 1, 1); }
        return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = (rgb) => rgb.map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const faint = new Set();
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const box = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !box.checkVisibility()) continue;
        const grounds = [];
        for (let e = box; e; e = e.parentElement)
            grounds.unshift(getComputedStyle(e).backgroundColor);
        const ground = over(grounds), ink = over([...grounds, getComputedStyle(box).color]);
        const [high, low] = [light(ground), light(ink)].sort((a, b) => b - a);
        if ((high + 0.05) / (low + 0.05) < 4.5)
            faint.add(`${box.tagName}.${box.className}: ${texts.currentNode.data.slice(0, 20)}`);
    }
    return [...faint];
}"""


def test_a_served_page_fetches_the_episodes_that_it_shows(open_page, run):
    with served(*page_data(find_source(run), None)) as server:
        page = open_page(server)
        assert rows(page) == 6 and set(open_page.requests) == {server}
        page.goto(f"{server}#/episode/{REPAIRED}")
        page.wait_for_selector(".card")
    assert set(open_page.requests) == {server, f"{server}chunks/0"}
