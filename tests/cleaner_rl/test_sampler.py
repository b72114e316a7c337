"""The sampler: tokens, log-probabilities and limits."""

import pytest
import torch

from cleaner_rl.drawing import nucleus
from cleaner_rl.sampler import Sampler

CONTEXTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [14], [5, 6]]


def ids(turns):
    return [turn.tokens.ids for turn in turns]


@pytest.mark.parametrize("limits", [[20] * 4, [1, 30, 2, 30], [30, 1, 1, 25]])
def test_logprobs_are_those_of_the_model(toy_policy, limits):
    # Uneven limits make rows leave the batch, and the others move up.
    turns = Sampler(toy_policy, temperature=0.8).sample(CONTEXTS, limits)
    for context, turn in zip(CONTEXTS, turns, strict=True):
        row = torch.tensor([[*context, *turn.tokens.ids]])
        logits = toy_policy.model(row).logits[0, len(context) - 1 : -1] / 0.8
        expected = logits.log_softmax(-1).gather(1, row[0, len(context) :, None])[:, 0]
        torch.testing.assert_close(torch.tensor(turn.tokens.logprobs), expected)


def test_seed_reproduces_the_turns(toy_policy):
    sampler = Sampler(toy_policy, seed=1)
    first = ids(sampler.sample(CONTEXTS, [20] * 4))
    second = ids(sampler.sample(CONTEXTS, [20] * 4))
    sampler.reseed(1)
    assert ids(sampler.sample(CONTEXTS, [20] * 4)) == first != second


def test_limits_are_kept_and_reported(toy_policy):
    turns = Sampler(toy_policy).sample(CONTEXTS, [1, 2, 3, 4])
    for limit, turn in zip([1, 2, 3, 4], turns, strict=True):
        assert len(turn.tokens) <= limit
        assert turn.truncated == (turn.tokens.stop_length == 0)


def test_a_turn_ends_at_the_stop_token(toy_policy):
    turns = Sampler(toy_policy, seed=2).sample(CONTEXTS * 50, [200] * 200)
    stop = toy_policy.codec.stop_ids
    ended = [turn for turn in turns if not turn.truncated]
    assert ended
    for turn in ended:
        assert turn.tokens.ids[-1] in stop
        assert not set(turn.tokens.ids[:-1]) & set(stop)
        assert turn == toy_policy.decode(turn.tokens.ids[:-1])


def test_batches_smaller_than_the_input_serve_everyone(toy_policy):
    turns = Sampler(toy_policy, max_batch=3).sample(CONTEXTS * 2, [5] * 8)
    assert len(turns) == 8 and all(len(turn.tokens) for turn in turns)


def test_nucleus_keeps_the_smallest_set_of_that_mass():
    probabilities = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    assert nucleus(probabilities, 0.7)[0].tolist() == pytest.approx([0, 0.5, 0, 0.25])
    assert nucleus(probabilities, 0.5)[0].tolist() == pytest.approx([0, 0.5, 0, 0])


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"top_p": 0}, {"top_p": 1.1}])
def test_bad_settings_are_refused(toy_policy, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampler(toy_policy, **wrong)
