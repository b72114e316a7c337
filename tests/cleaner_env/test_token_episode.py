"""Episodes whose turns another program samples, held to what the trainer makes of them."""

from dataclasses import asdict

import pytest
from scripted_rollouts import (
    BUNDLED,
    MAX_LENGTH,
    SCRIPTS,
    SYSTEM_PROMPT,
    TASK,
    BrokenSandbox,
    ScriptedSandbox,
    expected,
    turns,
)
from transformers import AutoTokenizer

from cleaner_env.chat import ChatCodec
from cleaner_env.token_episode import TokenEpisode, token_env


@pytest.fixture(scope="module")
def codec():
    return ChatCodec(AutoTokenizer.from_pretrained(BUNDLED))


@pytest.fixture
def begin(codec):
    """Begins an episode; the arguments are those of ``token_env``."""

    def begin(max_length=MAX_LENGTH, sandbox=None, max_context=None, **more):
        sandbox = sandbox or ScriptedSandbox()
        env = token_env(codec, max_length, sandbox=sandbox, system_prompt=SYSTEM_PROMPT, **more)
        return TokenEpisode(env, codec, TASK, max_context=max_context)

    return begin


def play(episode, name):
    for ids, logprobs in turns(episode.codec.tokenizer, name):
        assert not episode.over
        episode.step(ids, logprobs)
    assert episode.over
    return episode


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_row_is_what_the_trainers_rollout_gives(begin, name):
    row = asdict(play(begin(), name).row())
    assert row == expected()[name] | {"logprobs": pytest.approx(expected()[name]["logprobs"])}


def test_grafted_tokens_can_be_left_out(begin):
    row = play(begin(), "shallow").row("mask")
    assert sum(row.mask) == sum(expected()["shallow"]["mask"]) - sum(row.grafted)
    assert not any(own and moved for own, moved in zip(row.mask, row.grafted, strict=True))


def test_an_unknown_treatment_of_grafted_tokens_is_refused(begin):
    with pytest.raises(ValueError, match="grafted must be one of"):
        play(begin(), "clean").row("drop")


def test_the_context_is_the_prompt_and_in_a_lookahead_the_failed_turn_with_its_error(begin):
    episode = begin()
    assert episode.context == episode.prompt_ids == expected()["shallow"]["prompt_ids"]
    (failed, logprobs), *_ = turns(episode.codec.tokenizer, "shallow")
    episode.step(failed, logprobs)
    shown = episode.codec.decode(episode.context[len(episode.prompt_ids) + len(failed) :])
    assert "NameError: name 'y' is not defined" in shown


def test_what_an_engine_sampled_after_the_end_of_a_turn_is_dropped(begin):
    episode = begin()
    for ids, logprobs in turns(episode.codec.tokenizer, "clean"):
        episode.step([*ids, 7, 8], [*logprobs, -1.0, -1.0])
    assert episode.row().response_ids == expected()["clean"]["response_ids"]


def test_a_turn_beyond_the_room_is_cut_and_truncates_the_episode(begin):
    episode = begin(max_length=12)
    (ids, logprobs), *_ = turns(episode.codec.tokenizer, "clean")
    assert episode.room == 12 < len(ids)
    episode.step(ids, logprobs)
    row = episode.row()
    assert (episode.over, episode.episode.truncated, row.reward) == (True, True, 0.0)
    assert row.response_ids == ids[:12] and row.logprobs == logprobs[:12]


def test_the_room_ends_with_the_models_context(begin):
    most = len(expected()["clean"]["prompt_ids"]) + 60
    episode = begin(max_context=most)
    assert episode.room == 60
    episode.step(*turns(episode.codec.tokenizer, "clean")[0])
    assert episode.room == most - len(episode.context) > 0


def test_a_program_whose_output_fills_the_models_context_ends_the_episode(begin):
    episode = begin(max_context=len(expected()["clean"]["prompt_ids"]) + 30)
    episode.step(*turns(episode.codec.tokenizer, "clean")[0])
    assert (episode.over, episode.episode.truncated) == (True, True)


def test_a_prompt_that_fills_the_models_context_is_refused(begin):
    with pytest.raises(ValueError, match="22 tokens leaves no room in a context of 20"):
        begin(max_context=20)


def test_a_broken_sandbox_is_tried_again(begin):
    row = play(begin(sandbox=BrokenSandbox(1)), "shallow").row()
    assert row.response_ids == expected()["shallow"]["response_ids"]


def test_an_episode_that_the_sandbox_spoils_has_no_reward_and_trains_nothing(begin):
    episode = begin(sandbox=BrokenSandbox(99))
    call = turns(episode.codec.tokenizer, "clean")[0]
    episode.step(*call)
    assert (episode.over, episode.episode.faulted) == (True, True)
    assert str(episode.fault) == "no worker answers"
    row = episode.row()
    assert row.reward is None and not any(row.mask)


def test_options_that_the_environment_does_not_have_are_refused(codec):
    with pytest.raises(TypeError, match="max_turn"):
        token_env(codec, 100, max_turn=3)
    with pytest.raises(TypeError, match="gama"):
        token_env(codec, 100, saar={"gama": 0.5})
