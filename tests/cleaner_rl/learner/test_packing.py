"""Packing, and the numbers that come out of a packed row."""

from dataclasses import replace

import pytest
import torch

from cleaner_rl.grpo.samples import Sample
from cleaner_rl.learner.logprobs import token_logprobs
from cleaner_rl.learner.packing import Pack, pack


def test_every_sample_is_packed_once(samples):
    packs = pack(samples, max_tokens=40)
    rows = [
        tuple(row.ids_T[begin:end].tolist())
        for row in packs
        for begin, end in zip(row.boundaries_S1, row.boundaries_S1[1:], strict=False)
    ]
    assert sorted(rows) == sorted(sample.ids for sample in samples)


def test_rows_keep_to_the_budget(samples):
    assert all(len(row.ids_T) <= 40 for row in pack(samples, max_tokens=40))


def test_a_sample_beyond_the_budget_is_not_truncated(samples):
    longest = max(samples, key=len)
    assert len(pack([longest], max_tokens=5)[0].ids_T) == len(longest)


def test_positions_restart_in_each_sample(samples):
    row = Pack.of(samples[:2])
    assert row.positions_T.tolist() == [*range(len(samples[0])), *range(len(samples[1]))]


def plain_logprobs(model, ids, temperature):
    logits = model(torch.tensor([ids])).logits[0, :-1].float() / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packed_logprobs_equal_those_of_each_sample_alone(toy_policy, samples, temperature):
    model = toy_policy.model
    packed, _ = token_logprobs(model, Pack.of(samples), temperature)
    begin = 0
    for sample in samples:
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
    assert [row.lengths for row in rows] == [(6, 4), (5, 3, 2)]


def test_packing_the_same_samples_gives_the_same_rows(samples):
    once, again = (pack(samples, max_tokens=40) for _ in range(2))
    assert [row.ids_T.tolist() for row in once] == [row.ids_T.tolist() for row in again]


def test_samples_of_an_episode_stay_together(samples):
    paired = [replace(sample, episode=i % 4) for i, sample in enumerate(samples)]
    rows = pack(paired, max_tokens=60)
    order = [[paired.index(s) % 4 for s in row_samples(row, paired)] for row in rows]
    for episodes in order:
        assert all(episodes.count(e) == 2 for e in episodes)
        assert episodes == [e for pair in episodes[::2] for e in (pair, pair)]


def row_samples(row, samples):
    by_ids = {sample.ids: sample for sample in samples}
    return [by_ids[tuple(ids.tolist())] for ids in row.ids_T.split(list(row.lengths))]


def test_an_episode_beyond_the_budget_is_split(samples):
    together = [replace(sample, episode=0) for sample in samples]
    assert len(pack(together, max_tokens=max(map(len, samples)))) > 1


def test_weights_follow_their_samples(samples):
    rows = pack(samples, 40, weights=[float(len(sample)) for sample in samples])
    for row in rows:
        lengths = torch.tensor(row.lengths, dtype=torch.float32)
        assert torch.equal(row.weights_T, lengths[row.sample_T])
