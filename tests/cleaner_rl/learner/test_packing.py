"""Packing: rows, the trees of samples in them, and the numbers that come out of a packed row."""

from dataclasses import replace

import pytest
import torch

from cleaner_rl.grpo.samples import Sample
from cleaner_rl.learner.logprobs import token_logprobs
from cleaner_rl.learner.packing import Pack, pack


@pytest.fixture
def branching(samples):
    """Samples that share prefixes of many lengths, in no order; two are equal."""
    first, second, third = samples[:3]
    parts = [
        (first, 99, second),
        (first, 99, third),
        (first, 2, third),
        (first, 5, second),
        (second, 99, first),
        (first, 99, second),
        (second, 4, third),
    ]
    return [*samples, *(joined(*part) for part in parts)]


def joined(one, count, other):
    """A sample that begins as another does; the values of its tokens are its own."""
    fields = ("ids", "mask", "advantages", "sampled_logprobs", "grafted")
    sample = Sample(*(getattr(one, name)[:count] + getattr(other, name) for name in fields))
    scale = 1.0 + 0.1 * count
    return replace(sample, advantages=tuple(scale * a for a in sample.advantages))


def ids_of_samples(row):
    lengths = [len(sample) for sample in row.samples]
    return [tuple(ids.tolist()) for ids in row.ids_U[row.slots_T].split(lengths)]


@pytest.mark.parametrize("share", [True, False])
def test_every_sample_is_packed_once(branching, share):
    packs = pack(branching, max_tokens=60, share=share)
    rows = [ids for row in packs for ids in ids_of_samples(row)]
    assert sorted(rows) == sorted(sample.ids for sample in branching)


@pytest.mark.parametrize("share", [True, False])
def test_rows_keep_to_the_budget(branching, share):
    rows = pack(branching, max_tokens=60, share=share)
    assert all(len(row.ids_U) <= 60 for row in rows) and len(rows) > 2


def test_a_sample_beyond_the_budget_is_not_truncated(samples):
    longest = max(samples, key=len)
    assert len(pack([longest], max_tokens=5)[0].ids_U) == len(longest)


def test_positions_restart_in_each_sample_that_shares_nothing(samples):
    row = Pack.of(samples[:2], share=False)
    assert row.positions_U.tolist() == [*range(len(samples[0])), *range(len(samples[1]))]


def test_a_row_by_hand():
    """Samples abc, abd, ab and xy make the row xy ab d c or, walked from the other end, another."""
    row = Pack.of([of_ids(*ids) for ids in ((1, 2, 3), (1, 2, 4), (1, 2), (8, 9))])
    assert row.ids_U.tolist() == [8, 9, 1, 2, 4, 3]
    assert row.positions_U.tolist() == [0, 1, 0, 1, 2, 2]
    assert row.parents_U.tolist() == [-1, 0, -1, 2, 3, 3]
    assert row.slots_T.tolist() == [2, 3, 5, 2, 3, 4, 2, 3, 0, 1]
    assert row.segments.queries == (2, 3, 1)
    assert row.segments.keys == (2, 3, 3)
    assert row.segments.path_P.tolist() == [0, 1, 2, 3, 4, 2, 3, 5]


def of_ids(*ids):
    return Sample(ids, (False,) * len(ids), *[(0.0,) * len(ids)] * 2, (False,) * len(ids))


def plain_logprobs(model, ids, temperature):
    logits = model(torch.tensor([ids])).logits[0, :-1].float() / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("share", [True, False])
def test_packed_logprobs_equal_those_of_each_sample_alone(
    toy_policy, branching, temperature, share
):
    model = toy_policy.model
    packed, _ = token_logprobs(model, Pack.of(branching, share=share), temperature)
    begin = 0
    for sample in branching:
        mine = packed[begin : begin + len(sample)]
        assert mine[0] == 0
        torch.testing.assert_close(mine[1:], plain_logprobs(model, sample.ids, temperature))
        begin += len(sample)


def test_chunks_change_nothing(toy_policy, samples):
    row = Pack.of(samples)
    whole = token_logprobs(toy_policy.model, row)
    chunked = token_logprobs(toy_policy.model, row, chunk=7)
    torch.testing.assert_close(whole, chunked)


def test_entropy_is_that_of_the_distribution(toy_policy, samples):
    _, entropies = token_logprobs(toy_policy.model, Pack.of(samples[:1]))
    logits = toy_policy.model(torch.tensor([samples[0].ids])).logits[0, :-1]
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(entropies[1:], expected)


def test_the_models_own_attention_is_restored_afterwards(toy_policy, samples):
    before = toy_policy.model.config._attn_implementation
    token_logprobs(toy_policy.model, Pack.of(samples))
    assert toy_policy.model.config._attn_implementation == before


def test_first_fit_decreasing_by_hand():
    def of(length):
        return Sample((length,) * length, (False,) * length, *[(0.0,) * length] * 3)

    rows = pack([of(n) for n in (2, 6, 4, 5, 3)], max_tokens=10)
    assert [sorted(map(len, row.samples)) for row in rows] == [[4, 6], [2, 3, 5]]


def test_packing_the_same_samples_gives_the_same_rows(branching):
    once, again = (pack(branching, max_tokens=60) for _ in range(2))
    assert [row.ids_U.tolist() for row in once] == [row.ids_U.tolist() for row in again]


def test_weights_follow_their_samples(samples):
    rows = pack(samples, 40, weights=[float(len(sample)) for sample in samples])
    for row in rows:
        lengths = torch.tensor([float(len(sample)) for sample in row.samples])
        assert torch.equal(row.weights_T, lengths[row.sample_T])
