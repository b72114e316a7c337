"""Episodes as token ids. Ids are characters; ``.`` is the token that ends a turn."""

from dataclasses import replace

import pytest
from scripted import STOP, sampled

from cleaner_env import Completion
from cleaner_env.episode import Episode, Turn
from cleaner_env.formats.protocol import ParsedTurn
from cleaner_env.task import Task
from cleaner_env.token_samples import (
    call_sample,
    context_ids,
    purified_sample,
    stop_id,
    turn_sample,
)

PROMPT = list(map(ord, "Q"))


def observation_ids(text, stop_id=None):
    return list(map(ord, f"{{{text}}}"))


def turn(text, observation=None, **more):
    """``a[code]`` calls the tool with ``code``."""
    start = text.find("[")
    parsed = ParsedTurn(text[:start], text[start:], text[start + 1 : -1], None, start)
    return Turn(sampled(text), parsed, observation, **more)


def episode(*turns):
    return Episode(Task("?", "1"), [], turns=list(turns))


def text(ids):
    return "".join("." if i == STOP else chr(i) for i in ids)


def masked(sample):
    """The sample's text, blank where no token may be trained."""
    shown = zip(text(sample.ids), sample.mask, strict=True)
    return "".join(character if trained else " " for character, trained in shown)


def test_purified_trajectory_has_prompt_turns_and_answers():
    sample = purified_sample(episode(turn("a[b]", "3"), turn("ok")), PROMPT, observation_ids)
    assert text(sample.ids) == "Qa[b].{3}ok."
    assert masked(sample) == " a[b].   ok."
    assert sample.logprobs == (0.0, *[-1.0] * 5, 0.0, 0.0, 0.0, *[-1.0] * 3)
    assert not any(sample.grafted)


def test_last_answer_is_not_part_of_the_trajectory():
    sample = purified_sample(episode(turn("a[b]", "3")), PROMPT, observation_ids)
    assert text(sample.ids) == "Qa[b]."


def test_masked_turns_are_context():
    failed = turn("a[b]", "3", masked=True)
    sample = purified_sample(episode(failed, turn("ok")), PROMPT, observation_ids)
    assert masked(sample) == "         ok."
    assert sample.logprobs[1:6] == (0.0,) * 5


def test_grafted_tokens_are_marked():
    mended = turn("a[b]", "3")
    tokens = replace(mended.completion.tokens, grafted=(False, *[True] * 4))
    mended = replace(mended, completion=Completion("a[b]", tokens))
    sample = purified_sample(episode(mended, turn("ok")), PROMPT, observation_ids)
    assert [i for i, grafted in enumerate(sample.grafted) if grafted] == [2, 3, 4, 5]


def test_a_turn_and_its_call_stand_behind_their_context():
    context = context_ids(PROMPT, [turn("a[b]", "3")], observation_ids)
    assert text(context) == "Qa[b].{3}"
    assert masked(turn_sample(turn("c[d]"), context)) == "         c[d]."
    assert masked(call_sample(turn("c[d]"), context)) == "          [d]."


def test_stop_id_is_none_where_a_length_limit_ended_the_turn():
    tokens = turn("a[b]").completion.tokens
    assert stop_id(tokens) == STOP
    assert stop_id(replace(tokens, stop_length=0)) is None


def test_plain_text_has_no_token_ids():
    plain = Turn(Completion("ok"), ParsedTurn("ok", None, None, None, 2))
    with pytest.raises(ValueError, match="plain text"):
        purified_sample(episode(plain), PROMPT, observation_ids)
