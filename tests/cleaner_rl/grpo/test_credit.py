"""Credit rules: which tokens of an episode are trained, with which advantage.

Ids are characters. Rows of a sample are written under each other:

    Qa[print(3)].{3}ok.     Q prompt, a[...] a turn with a call, {3} its result, . end of turn
     ++++++++++++   +++     sign of the advantage; blank where a token is not trained
"""

import pytest
from scripted import STOP, sampled

from cleaner_env import CodeToolEnv, SAARWrapper
from cleaner_env.episode import Episode
from cleaner_env.formats.protocol import ParsedTurn
from cleaner_env.token_samples import context_ids
from cleaner_rl.config import PRESETS
from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.grpo.credit import episode_samples, splices
from cleaner_rl.grpo.groups import minibatch_samples
from cleaner_rl.settings import change
from cleaner_rl.train import compared

PROMPT = list(map(ord, "Q"))


class Brackets:
    """A tool-call format in which ``a[code]`` calls the tool with ``code``."""

    name = "brackets"

    def parse(self, text):
        start = text.find("[")
        if start < 0:
            return ParsedTurn(text, None, None, None, len(text))
        return ParsedTurn(text[:start], text[start:], text[start + 1 : -1], None, start)


def observation_ids(text, stop_id=None):
    return list(map(ord, f"{{{text}}}"))


@pytest.fixture
def play(sandbox):
    def play(*turns, **saar) -> Episode:
        env = CodeToolEnv([{"prompt": "?", "answer": "1"}], sandbox=sandbox, system_prompt=None)
        env.format = Brackets()
        wrapped = SAARWrapper(env, similarity=lambda a, b: float(a[0] == b[0]), **saar)
        wrapped.reset(seed=0)
        for i, turn in enumerate(turns):
            wrapped.step(sampled(turn, logprob=-float(i + 1)))
        return wrapped.episode

    return play


def samples_of(episode, advantage, rule="purified", grafted="recompute", branch=0.0):
    return episode_samples(
        episode, advantage, PROMPT, observation_ids, rule, grafted, branch_advantage=branch
    )


def text(sample):
    """The sample's tokens; the end of turn is shown as ``.``"""
    return "".join("." if i == STOP else chr(i) for i in sample.ids)


def trained(sample):
    """The tokens that count, without those between them."""
    return "".join(
        "." if i == STOP else chr(i) for i, m in zip(sample.ids, sample.mask, strict=True) if m
    )


def row(sample, values):
    """One character a token: blank where the mask is off, else a sign of the value."""
    return "".join(
        " " if not counted else "0" if value == 0 else "+" if value > 0 else "-"
        for counted, value in zip(sample.mask, values, strict=True)
    )


def test_plain_episode_trains_every_sampled_token_and_no_other(play):
    (sample,) = samples_of(play("a[print(3)]", "ok"), 1.0)
    assert text(sample) == "Qa[print(3)].{3}ok."
    assert row(sample, sample.advantages) == " ++++++++++++   +++"


@pytest.mark.parametrize("rule", ["purified", "positive", "contrastive", "branched"])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_masked_turns_are_context_and_not_trained(play, rule, advantage):
    episode = play("a[print(x)]", "a[print(3)]", "ok", mode="mask-failed")
    (sample,) = samples_of(episode, advantage, rule)
    failed = len(text(sample)) - len("a[print(3)].{3}ok.")
    assert text(sample)[failed:] == "a[print(3)].{3}ok."
    sign = "+" if advantage > 0 else "-"
    assert row(sample, sample.advantages) == " " * failed + sign * 12 + "   " + sign * 3


def test_ids_are_the_sampled_ones(play):
    episode = play("a[print(3)]", "ok")
    (sample,) = samples_of(episode, 1.0)
    assert sample.ids == (
        *PROMPT,
        *episode.turns[0].completion.tokens.ids,
        *observation_ids("3"),
        *episode.turns[1].completion.tokens.ids,
    )


def test_last_observation_is_left_out(play):
    (sample,) = samples_of(play("a[print(3)]"), 1.0)
    assert text(sample) == "Qa[print(3)]."


def test_purified_gives_grafted_tokens_the_advantage(play):
    (sample,) = samples_of(play("a[b]", "c[print(3)]", "ok", gamma=0.0), -1.0)
    assert text(sample) == "Qa[print(3)].{3}ok."
    assert row(sample, sample.advantages) == " ------------   ---"
    assert row(sample, sample.grafted) == " 0+++++++++++   000"


def test_masked_grafted_tokens_leave_the_loss(play):
    (sample,) = samples_of(play("a[b]", "c[print(3)]", "ok", gamma=0.0), -1.0, grafted="mask")
    assert row(sample, sample.advantages) == " -              ---"


def test_deep_splice_makes_the_whole_turn_grafted(play):
    (sample,) = samples_of(play("a[b]", "c[print(3)]", "ok"), 1.0)
    assert text(sample) == "Qc[print(3)].{3}ok."
    assert row(sample, sample.grafted) == " ++++++++++++   000"


def test_log_probabilities_follow_their_tokens(play):
    (sample,) = samples_of(play("a[b]", "c[print(3)]", "ok", gamma=0.0), 1.0)
    assert sample.sampled_logprobs == (0, -1, *[-2] * 11, 0, 0, 0, *[-3] * 3)


def test_positive_keeps_grafted_tokens_from_blame_and_in_the_denominator(play):
    episode = play("a[b]", "c[print(3)]", "ok", gamma=0.0)
    (blamed,) = samples_of(episode, -1.0, "positive")
    assert row(blamed, blamed.advantages) == " -00000000000   ---"
    (praised,) = samples_of(episode, 1.0, "positive")
    assert row(praised, praised.advantages) == " ++++++++++++   +++"


def test_contrastive_praises_the_purified_trajectory(play):
    episode = play("a[b]", "c[print(3)]", "ok", gamma=0.0)
    assert samples_of(episode, 1.0, "contrastive") == samples_of(episode, 1.0, "purified")


def test_contrastive_blames_the_failed_call_in_its_clean_context(play):
    episode = play("x[print(1)]", "a[b]", "c[print(3)]", "ok", gamma=0.0)
    purified, failed = samples_of(episode, -1.0, "contrastive")
    assert text(purified) == "Qx[print(1)].{1}a[print(3)].{3}ok."
    assert row(purified, purified.advantages) == " ------------   -              ---"
    assert text(failed) == "Qx[print(1)].{1}a[b]."
    assert row(failed, failed.advantages) == "                 ----"


def test_contrastive_takes_the_first_attempt_alone(play):
    episode = play("a[b]", "c[d]", "e[print(3)]", "ok", gamma=0.0)
    _, failed = samples_of(episode, -1.0, "contrastive")
    assert text(failed) == "Qa[b]."


def test_contrastive_blames_a_failure_that_stayed_in_place_as_sampled(play):
    (sample,) = samples_of(play("a[b]", "no"), -1.0, "contrastive")
    assert text(sample).startswith("Qa[b].{Traceback")
    assert row(sample, sample.advantages).startswith(" -----")
    assert row(sample, sample.advantages).endswith(" ---")


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_branched_trains_every_token_where_it_was_sampled(play, advantage):
    episode = play("x[print(1)]", "a[b]", "c[print(3)]", "ok", gamma=0.0)
    purified, failed, answer = samples_of(episode, advantage, "branched", branch=-2.0)
    assert purified == samples_of(episode, advantage)[0]
    assert text(failed) == "Qx[print(1)].{1}a[b]."
    assert row(failed, failed.advantages) == "                 ----"
    assert text(answer).startswith("Qx[print(1)].{1}a[b].{Traceback")
    assert text(answer).endswith("}c[print(3)].")
    assert trained(answer) == "c[print(3)]."
    assert set(answer.advantages) == {0.0, advantage}


def test_branched_blames_a_correction_that_failed_in_the_context_of_its_lookahead(play):
    episode = play("a[b]", "c[d]", "e[print(3)]", "ok", gamma=0.0)
    purified, first, second, answer = samples_of(episode, 1.0, "branched", branch=-2.0)
    assert text(purified) == "Qa[print(3)].{3}ok."
    assert (trained(first), trained(second), trained(answer)) == ("[b].", "[d].", "e[print(3)].")
    assert set(first.advantages) == set(second.advantages) == {0.0, -2.0}
    # The second lookahead was shown the spliced attempt, not the chain of attempts.
    assert text(answer).startswith("Qa[d].{")


def test_branched_adds_nothing_to_an_episode_without_a_splice(play):
    for turns in [("a[print(3)]", "ok"), ("a[b]", "no")]:
        assert len(samples_of(play(*turns), 1.0, "branched", branch=-2.0)) == 1


def test_a_correction_that_used_up_the_retries_stays_and_is_no_branch(play):
    episode = play("a[b]", "c[d]", "no", gamma=0.0, max_retries=1)
    _, failed, answer = samples_of(episode, -1.0, "branched", branch=-2.0)
    assert trained(failed) == "[b]." and set(failed.advantages) == {0.0, -2.0}
    assert trained(answer) == "c[d]." and set(answer.advantages) == {0.0, -1.0}
    assert len(splices(episode)) == 1


def test_a_failed_correction_stays_where_the_next_lookahead_gave_up(play):
    episode = play("a[b]", "c[d]", "no", gamma=0.0)
    assert [record.outcome for record in episode.rollbacks] == ["retry", "gave_up"]
    _, failed, answer = samples_of(episode, 1.0, "branched", branch=-2.0)
    assert trained(failed) == "[b]." and set(failed.advantages) == {0.0, -2.0}
    assert trained(answer) == "c[d]." and set(answer.advantages) == {0.0, 1.0}
    assert len(splices(episode)) == 1


@pytest.mark.parametrize(("penalty", "blame"), [(0.0, -1.0), (0.5, -1.5)])
def test_branches_join_the_group_that_a_run_compares(play, penalty, blame):
    group = [play("a[b]", "c[print(3)]", "ok", gamma=0.0), play("a[print(3)]", "ok")]
    config = change(PRESETS["tiny"], credit="branched", loss="dr_grpo", failure_penalty=penalty)
    [samples] = minibatch_samples(
        [compared(group, [1.0, 1.0], config)],
        1,
        "branched",
        "recompute",
        lambda _: PROMPT,
        observation_ids,
        Ranks(),
    )
    purified, failed, answer, other = samples
    # Right, right and a branch that failed: the mean is a third of the way down.
    assert min(failed.advantages) == pytest.approx(blame * 2 / 3)
    for sample in (purified, answer, other):
        assert max(sample.advantages) == pytest.approx(-blame / 3)


def test_context_of_a_lookahead_shows_failure_and_error(play):
    episode = play("a[b]")
    context = "".join(map(chr, context_ids(PROMPT, episode.turns, observation_ids)))
    assert context.startswith("Qa[b]") and "NameError" in context


def test_plain_text_cannot_be_trained(sandbox):
    env = CodeToolEnv([{"prompt": "?", "answer": "1"}], sandbox=sandbox)
    env.reset()
    env.step("ok")
    with pytest.raises(ValueError, match="plain text"):
        samples_of(env.episode, 1.0)


@pytest.mark.parametrize("wrong", [{"rule": "none"}, {"grafted": "drop"}])
def test_unknown_rules_are_refused(play, wrong):
    with pytest.raises(ValueError, match="one of"):
        samples_of(play("ok"), 1.0, **wrong)


def test_samples_carry_the_number_of_their_episode(play):
    episode = play("a[1/0]", "a[print(3)]", "ok")
    samples = episode_samples(episode, -1.0, PROMPT, observation_ids, "contrastive", number=7)
    assert [sample.episode for sample in samples] == [7, 7]
