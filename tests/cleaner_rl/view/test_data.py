"""The data of a page: groups, episodes, credit by rule, and what is not known of older files."""

import base64
import gzip
import json
import math
import re

import pytest
from logged import TURNS, play, rows_of

from cleaner_env import write_episodes
from cleaner_env.episode_io import json_line
from cleaner_rl.errors import UserError
from cleaner_rl.grpo.groups import Group
from cleaner_rl.settings import CREDIT_RULES
from cleaner_rl.view.data import page_data
from cleaner_rl.view.page import html
from cleaner_rl.view.source import find_source

HOSTILE = "</script><!--<script>alert(1)</script>\x00\u202e\ud800" + "x" * 1_000_000


@pytest.fixture
def group(sandbox):
    episodes = [play(sandbox, "a[print(3)]", "ok"), play(sandbox, *TURNS, gamma=0.0)]
    return Group.of(episodes, [1.0, 0.0])


@pytest.fixture
def run(group, tmp_path):
    """A run directory with one step."""
    (tmp_path / "run" / "episodes").mkdir(parents=True)
    config = {"gamma": 0.5, "similarity_on": "code", "max_retries": 3, "credit": "purified"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    metrics = [{"step": 7, "reward": 0.5, "loss": math.nan}, {"step": 8, "reward": 1 / 3}]
    lines = "".join(json.dumps(row) + "\n" for row in metrics)
    (tmp_path / "run" / "metrics.jsonl").write_text(lines)
    log(tmp_path / "run", rows_of([group], [group]))
    return tmp_path / "run"


def log(run, rows):
    lines = "".join(json_line(row) + "\n" for row in rows)
    data = lines.encode("utf-8", "surrogatepass")
    (run / "episodes" / "step-000007.jsonl").write_bytes(data)


def logged(run):
    lines = (run / "episodes" / "step-000007.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def data_of(path, step=None):
    top, chunks = page_data(find_source(path), step)
    return top, [json.loads(gzip.decompress(chunk)) for chunk in chunks]


def test_a_run_has_its_settings_and_curves(run):
    top, _ = data_of(run)
    named = {name: top[name] for name in ("title", "kind", "gamma", "max_retries", "rule")}
    assert named == {
        **{"title": "run", "kind": "run", "gamma": 0.5, "max_retries": 3, "rule": "purified"}
    }
    (curve,) = top["curves"]
    assert curve["steps"] == [7, 8]
    assert curve["series"] == {"reward": [0.5, 0.33333], "loss": [None, None]}
    assert top["labels"]["failed_calls"] == "failed calls per episode"


def test_held_out_figures_are_those_with_rollback_off_once_a_step(run):
    off, on = {"metrics": {"accuracy": 0.25}}, {"metrics": {"accuracy": 0.75}}
    evaluations = {
        **{"before": {"step": 0, "metrics": {"accuracy": 0.1}}},
        **{"000002": {"step": 2, "off": off, "on": on}, "after": {"step": 2, **off}},
    }
    for name, saved in evaluations.items():
        (run / f"evaluation-{name}.json").write_text(json.dumps(saved))
    (curve,) = data_of(run)[0]["curves"]
    assert curve["held_out"] == [{"step": 0, "accuracy": 0.1}, {"step": 2, "accuracy": 0.25}]


def test_a_group_has_the_rewards_and_the_advantages_under_every_rule(run):
    top, _ = data_of(run)
    (group,) = top["groups"]
    assert (group["step"], group["rewards"], group["branches"]) == (7, [1.0, 0.0], 2)
    assert group["has_signal"] and group["learned"]
    assert group["spread"] == pytest.approx(0.5**0.5, abs=1e-5)
    assert set(group["advantages"]) == set(CREDIT_RULES)
    expected = pytest.approx([0.5**0.5, -(0.5**0.5)], abs=1e-5)
    assert group["advantages"]["purified"]["members"] == expected
    # Among 1, 0 and two failures: the mean is 1/4, the deviation 1/2.
    assert group["advantages"]["branched"] == {
        "members": [pytest.approx(1.5, abs=1e-3), pytest.approx(-0.5, abs=1e-3)],
        "branches": pytest.approx(-0.5, abs=1e-3),
    }


def test_an_episode_of_the_list_leads_to_its_details(run):
    top, chunks = data_of(run)
    row = top["episodes"][1]
    assert (row["member"], row["outcomes"]) == (1, ["retry", "recovered"])
    assert row["advantage"] == pytest.approx(-(0.5**0.5), abs=1e-5)
    assert (row["errors"], row["calls"], row["failures"]) == (["NameError"], 3, 2)
    details = chunks[row["chunk"]][row["at"]]
    assert [turn["code"] for turn in details["turns"]] == ["print(3)", None]
    assert [turn["code"] for turn in details["raw_turns"]][:2] == ["print(x)", "print(y)"]
    first, second = details["rollbacks"]
    assert (first["failed"]["code"], first["spliced"]["code"]) == ("print(x)", "print(y)")
    assert "NameError" in second["failed"]["observation"] and second["outcome"] == "recovered"


def test_tokens_have_an_origin_a_text_and_a_turn(run):
    top, chunks = data_of(run)
    lane, removed, *_ = chunks[0][1]["tokens"]["lanes"]
    assert lane["origin"] == "p" + "s" + "g" * 11 + "eee" + "sss"
    assert "".join(top["texts"][str(one)] for one in lane["ids"][:12]) == "Qa[print(3)]"
    assert lane["turn"] == [[1, -1], [15, 0], [3, 1]]
    assert (removed["kind"], removed["rollback"]) == ("removed call", 0)
    assert lane["sampled"][:3] == [None, -1.0, -3.0]


def test_files_of_earlier_versions_are_shown_without_what_they_lack(group, tmp_path):
    write_episodes(tmp_path / "old.jsonl.gz", group.episodes)
    top, chunks = data_of(tmp_path / "old.jsonl.gz")
    (shown,) = top["groups"]
    assert (top["kind"], shown["advantages"], shown["has_signal"]) == ("episodes", None, None)
    assert [row["advantage"] for row in top["episodes"]] == [None, None]
    assert [details["tokens"] for details in chunks[0]] == [None, None]
    assert chunks[0][1]["rollbacks"][0]["failed"]["code"] == "print(x)"


def test_a_very_small_advantage_keeps_its_sign(sandbox, tmp_path, run):
    episodes = [play(sandbox, "a[print(3)]", "ok") for _ in range(2)]
    group = Group(episodes, [1e-7, 0.0], [5e-8, -5e-8])
    log(run, rows_of([group], [group]))
    top, _ = data_of(run)
    assert [row["advantage"] for row in top["episodes"]] == [5e-8, -5e-8]
    assert top["groups"][0]["has_signal"]


def test_numbers_that_are_not_finite_are_null(sandbox, run):
    group = Group.of([play(sandbox, "a[print(3)]", "ok") for _ in range(2)], [math.inf, 0.0])
    log(run, rows_of([group], [group]))
    top, _ = data_of(run)
    assert top["groups"][0]["rewards"] == [None, 0.0] and top["groups"][0]["spread"] is None


def test_only_the_episodes_of_one_step(run):
    assert len(data_of(run, 7)[0]["episodes"]) == 2
    assert data_of(run, 6)[0]["episodes"] == []
    file = run / "episodes" / "step-000007.jsonl"
    assert [len(data_of(file, step)[0]["episodes"]) for step in (7, 6)] == [2, 0]


def test_a_comparison_has_the_groups_of_all_runs(run, tmp_path):
    directory = tmp_path / "comparison"
    for arm in ("off", "branched"):
        place = directory / "runs" / arm / "seed-0"
        place.parent.mkdir(parents=True)
        place.symlink_to(run)
    (directory / "comparison.json").write_text("{}")
    top, _ = data_of(directory)
    assert top["kind"] == "comparison" and top["rule"] is None
    assert [curve["arm"] for curve in top["curves"]] == ["branched, seed-0", "off, seed-0"]
    assert [group["arm"] for group in top["groups"]] == ["branched, seed-0", "off, seed-0"]


def test_an_evaluation_is_grouped_by_problem_whatever_order_its_episodes_ended_in(group, tmp_path):
    write_episodes(tmp_path / "some.jsonl", group.episodes)
    right, wrong = map(json.loads, (tmp_path / "some.jsonl").read_text().splitlines())
    rows = [
        {"mode": mode, "index": index, "problem": index // 2, "sample": index % 2, "episode": one}
        for mode, index, one in [("on", 1, wrong), ("off", 0, right), ("on", 0, right)]
    ]
    out = tmp_path / "evaluation"
    out.mkdir()
    (out / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    top, _ = data_of(out)
    assert [(one["arm"], len(one["episodes"])) for one in top["groups"]] == [
        *(("rollback off", 1), ("rollback on", 2))
    ]
    assert [len(row["outcomes"]) for row in top["episodes"]] == [0, 0, 2]


def test_the_page_is_one_file_in_which_hostile_text_is_text(run):
    rows = logged(run)
    rows[0]["turns"][0]["observation"] = rows[0]["task"]["prompt"] = HOSTILE
    log(run, [{**rows[0], "rollbacks": [], "training": None}, rows[1]])
    page = html(*page_data(find_source(run)))
    assert "alert(1)</script>" not in page and "<!--<script" not in page
    data = json.loads(re.search(r'id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    (chunk,) = (json.loads(gzip.decompress(base64.b64decode(one))) for one in data["chunks"])
    assert chunk[0]["turns"][0]["observation"] == HOSTILE


@pytest.mark.parametrize("damage", [{"samples": [{}]}, {"texts": {}}, {"rule": "unheard-of"}])
def test_a_damaged_record_is_named(run, damage):
    rows = logged(run)
    log(run, [{**row, "training": row["training"] | damage} for row in rows])
    with pytest.raises(UserError, match=r"step 7 of run recorded.*damaged.*remove its file"):
        data_of(run)
