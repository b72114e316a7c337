"""What a training step records with its logged episodes, and how it is read again."""

import json
from types import SimpleNamespace

import pytest
from logged import ROLLOUT, TURNS, play, rows_of

from cleaner_env import episode_from_dict, write_episodes
from cleaner_env.episode_io import json_line
from cleaner_rl.grpo.credit import episode_samples
from cleaner_rl.grpo.groups import Group
from cleaner_rl.settings import CREDIT_RULES
from cleaner_rl.view.source import read_logged
from cleaner_rl.view.tokens import advantages_by_rule, gaps, runs, token_layer, unrolled
from cleaner_rl.view.trace import logged_groups


@pytest.fixture
def group(sandbox):
    """A right and a wrong episode; the wrong one has two failed calls behind it."""
    episodes = [play(sandbox, "a[print(3)]", "ok"), play(sandbox, *TURNS, gamma=0.0)]
    return Group.of(episodes, [1.0, 0.0])


def branched(group):
    return Group.of(group.episodes, group.rewards, branch_reward=0.0)


@pytest.fixture
def read(tmp_path):
    """Writes rows to an episode file and reads them as the page does."""

    def read(rows):
        file = tmp_path / "step-000007.jsonl"
        file.write_text("".join(json_line(row) + "\n" for row in rows))
        return list(read_logged(file))

    return read


def groups(*rewards):
    return [SimpleNamespace(rewards=of, episodes=of) for of in rewards]


@pytest.mark.parametrize(
    ("count", "logged"), [(0, []), (1, [0, 2, 3]), (2, [0, 2, 3]), (3, [0, 1, 2, 3])]
)
def test_the_first_groups_are_logged_and_those_whose_rewards_differ_most_and_least(count, logged):
    some = groups([1.0, 0.5], [0.0, 0.5], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0])
    assert logged_groups(some, count) == logged


def test_an_episode_file_is_read_as_before(group):
    for row in rows_of([group], [group]):
        plain = {key: value for key, value in row.items() if key != "training"}
        assert episode_from_dict(json.loads(json_line(row))) == episode_from_dict(plain)


@pytest.mark.parametrize("rule", CREDIT_RULES)
def test_the_page_gives_tokens_the_credit_that_the_trainer_gave(group, read, rule):
    kept = branched(group) if rule == "branched" else group
    for logged in read(rows_of([kept], [kept], rule)):
        advantages = advantages_by_rule(logged.training, branches=2)
        layer = token_layer(logged.episode, logged.training, advantages)
        samples = episode_samples(
            kept.episodes[logged.training["member"]],
            kept.advantages[logged.training["member"]],
            ROLLOUT.prompt_ids(None),
            ROLLOUT.observation_ids,
            rule,
            branch_advantage=kept.branch_advantage,
        )
        assert len(samples) == len(layer["rules"][rule])
        for sample, shown in zip(samples, layer["rules"][rule], strict=True):
            assert layer["lanes"][shown["lane"]]["ids"] == list(sample.ids)
            credit = unrolled(shown["credit"])
            assert [value is not None for value in credit] == list(sample.mask)
            shown_values = [0.0 if value is None else value for value in credit]
            assert shown_values == pytest.approx(list(sample.advantages), abs=1e-4)


@pytest.mark.parametrize("rule", CREDIT_RULES)
def test_another_rule_has_the_credit_that_it_would_have_had_in_training(group, read, rule):
    other = branched(group) if rule == "branched" else group
    trained_so = {}
    for logged in read(rows_of([other], [other], rule)):
        layer = token_layer(logged.episode, logged.training, advantages_by_rule(logged.training, 2))
        trained_so[logged.training["member"]] = layer["rules"][rule]
    for logged in read(rows_of([group], [group], "purified")):
        layer = token_layer(logged.episode, logged.training, advantages_by_rule(logged.training, 2))
        for shown, trained in zip(
            layer["rules"][rule], trained_so[logged.training["member"]], strict=True
        ):
            assert shown["lane"] == trained["lane"]
            values = [unrolled(one["credit"]) for one in (shown, trained)]
            assert values[0] == [v if v is None else pytest.approx(v, abs=1e-4) for v in values[1]]


def test_values_stand_at_the_tokens_in_the_loss_and_nowhere_else(group, read):
    _, logged = read(rows_of([group], [group]))
    layer = token_layer(logged.episode, logged.training, advantages_by_rule(logged.training, 2))
    lane = layer["lanes"][0]
    in_loss = [origin in "sg" for origin in lane["origin"]]
    assert [value == -0.5 for value in lane["recomputed"]] == in_loss
    assert [value == 0.25 for value in lane["entropy"]] == in_loss
    assert gaps(layer) == {"gap": 3.5, "grafted_gap": 2.5}
    assert all(lane["recomputed"] is None for lane in layer["lanes"][1:])


def test_a_group_without_signal_has_no_values(sandbox, read):
    group = Group.of([play(sandbox, "a[print(3)]", "ok") for _ in range(2)], [1.0, 1.0])
    for logged in read(rows_of([group], [group])):
        (sample,) = logged.training["samples"]
        assert sample["logprobs"] is None and sample["entropies"] is None
        assert {value for _, value in sample["credit"]} == {None, 0.0}


def test_members_that_were_not_trained_have_rewards_and_no_advantage(group, read):
    kept = Group.of(group.episodes[:2], [1.0, 0.0])
    played = Group.of(
        [*group.episodes, group.episodes[0].__class__(**_fields(group.episodes[0]))],
        [1.0, 0.0, 1.0],
    )
    *_, left_out = read(rows_of([played], [kept]))
    assert left_out.training["rewards"] == [1.0, 0.0, 1.0]
    assert left_out.training["advantages"][2] is None and left_out.training["samples"] == []


def _fields(episode):
    return {name: getattr(episode, name) for name in episode.__slots__}


def test_the_purified_trajectory_has_its_credit_where_a_lookahead_ends_the_same(sandbox, read):
    gave_up = play(sandbox, "a[print(x)]", "ok")
    group = Group.of([play(sandbox, "a[print(3)]", "ok"), gave_up], [1.0, 0.0])
    *_, logged = read(rows_of([group], [group]))
    layer = token_layer(logged.episode, logged.training, advantages_by_rule(logged.training, 0))
    purified, _, lookahead = layer["lanes"]
    assert purified["ids"] == lookahead["ids"]
    assert {samples[0]["lane"] for samples in layer["rules"].values()} == {0}
    assert purified["recomputed"] is not None and lookahead["recomputed"] is None


def test_texts_of_tokens_join_to_the_text_of_a_turn(group, read):
    for logged in read(rows_of([group], [group])):
        for turn in logged.episode.turns:
            assert turn.completion.tokens.text == turn.text


def test_files_without_a_trace_have_groups_by_problem_and_no_advantages(group, tmp_path):
    file = tmp_path / "episodes.jsonl.gz"
    write_episodes(file, group.episodes)
    logged = list(read_logged(file))
    assert [one.training for one in logged] == [None, None]
    assert logged[0].group == logged[1].group


def test_run_lengths_are_undone():
    values = [None, None, 0.5, 0.5, 0.0, None]
    assert unrolled(runs(values)) == values and len(runs(values)) == 4
