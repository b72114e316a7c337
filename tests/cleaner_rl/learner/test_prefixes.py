"""Shared prefixes: the numbers of the unshared path, from fewer tokens."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cleaner_rl.grpo.loss import LOSSES
from cleaner_rl.grpo.samples import Sample
from cleaner_rl.learner.attention import packed_attention
from cleaner_rl.learner.logprobs import token_logprobs
from cleaner_rl.learner.packing import Pack, pack
from cleaner_rl.learner.update import Updater
from cleaner_rl.settings import UpdateConfig


def of_ids(*ids, advantage=1.0):
    """A sample of which everything but the first token counts."""
    mask = (False, *[True] * (len(ids) - 1))
    values = tuple(advantage * m for m in mask)
    return Sample(ids, mask, values, tuple(-1.0 * m for m in mask), (False,) * len(ids))


PROMPT = (5, 6, 7)
FAMILY = [
    of_ids(*PROMPT, 1, 2, 3, 4),
    of_ids(*PROMPT, 1, 2, 8),  # parts from the first one late
    of_ids(*PROMPT, 9, 2, 3),  # equal ids in another context
    of_ids(*PROMPT, 1, 2),  # ends within the first one
    of_ids(*PROMPT, 9, 2, 3),  # occurs twice
    of_ids(4, 4),
]


def prefixes(samples):
    """Every prefix of the samples, that is every token of their tree."""
    return {sample.ids[: end + 1] for sample in samples for end in range(len(sample))}


def computed(rows):
    return sum(len(row.ids_U) for row in rows)


def test_equal_ids_in_equal_context_are_one_token():
    row = Pack.of(FAMILY)
    assert len(row.ids_U) == len(prefixes(FAMILY)) == 13
    slots = row.slots_T.split([len(sample) for sample in FAMILY])
    for sample, slots_L in zip(FAMILY, slots, strict=True):
        assert tuple(row.ids_U[slots_L].tolist()) == sample.ids
        assert row.positions_U[slots_L].tolist() == list(range(len(sample)))
        assert row.parents_U[slots_L].tolist() == [-1, *slots_L[:-1].tolist()]


def test_a_segment_has_the_keys_of_its_path():
    row = Pack.of(FAMILY)
    paths = row.segments.path_P.split(row.segments.keys)
    own = torch.arange(len(row.ids_U)).split(row.segments.queries)
    for path, tokens in zip(paths, own, strict=True):
        assert torch.equal(path[-len(tokens) :], tokens)
        assert row.parents_U[path[0]] == -1
        assert all(row.parents_U[after] == before for before, after in pairwise(path))


def test_without_sharing_every_sample_stands_alone():
    row = Pack.of(FAMILY, share=False)
    assert row.ids_U.tolist() == [i for sample in FAMILY for i in sample.ids]
    assert row.segments.path_P is None


ids = st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple)
forests = st.lists(ids, min_size=1, max_size=8)


@given(forests, st.integers(1, 20))
def test_rows_hold_every_sample_and_keep_to_the_budget(forest, budget):
    samples = [of_ids(*one) for one in forest]
    rows = pack(samples, budget)
    assert sorted(s.ids for row in rows for s in row.samples) == sorted(forest)
    for row in rows:
        assert len(row.ids_U) == len(prefixes(row.samples))
        assert len(row.ids_U) <= max(budget, max(map(len, row.samples)))


@given(forests)
def test_what_fits_one_row_is_in_one(forest):
    samples = [of_ids(*one) for one in forest]
    assert len(pack(samples, len(prefixes(samples)))) == 1


def test_a_tree_is_cut_near_its_root():
    trees = [[of_ids(1, tree, *[2] * 6, leaf) for leaf in (3, 4)] for tree in (5, 6)]
    rows = pack([trees[0][0], trees[1][0], trees[0][1], trees[1][1]], 12)
    assert {frozenset(row.samples) for row in rows} == set(map(frozenset, trees))
    assert computed(rows) == 1 + len(prefixes([*trees[0], *trees[1]]))


@pytest.mark.parametrize("window", [None, 1, 2, 4, 100])
@pytest.mark.parametrize("copies", [1, 6])
def test_attention_is_that_of_every_sample_alone(window, copies):
    # With six times the leaves, more keys are gathered than are kept for the backward pass.
    family = FAMILY + [of_ids(*PROMPT, 1, 2, 10 + i) for i in range(20 * (copies > 1))]
    shared, alone = Pack.of(family), Pack.of(family, share=False)
    generator = torch.Generator().manual_seed(0)
    heads = [torch.randn(1, n, len(shared.ids_U), 8, generator=generator) for n in (4, 2, 2)]
    weight_THD = torch.randn(len(shared.slots_T), 4, 8, generator=generator)
    results = []
    for row, read in ((shared, shared.slots_T), (alone, None)):
        leaves = [x.clone().requires_grad_() for x in heads]
        given_to = leaves if read is not None else [x[:, :, shared.slots_T] for x in leaves]
        out_1UHD, _ = packed_attention(
            torch.nn.Identity(), *given_to, None, segments=row.segments, sliding_window=window
        )
        out_THD = out_1UHD[0] if read is None else out_1UHD[0, read]
        (out_THD * weight_THD).sum().backward()
        results.append((out_THD, [x.grad for x in leaves]))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_a_token_is_predicted_by_its_parent(toy_policy):
    row = Pack.of(FAMILY)
    logprobs_T, entropies_T = token_logprobs(toy_policy.model, row)
    for sample, mine, entropies in row.by_sample(logprobs_T, entropies_T):
        alone = token_logprobs(toy_policy.model, Pack.of([sample]))
        torch.testing.assert_close((mine, entropies), alone, rtol=1e-5, atol=1e-5)


def learned(model, state, samples, share, updates=1, **more):
    """Gradients and metrics of updates; ratios leave 1 with the second one."""
    model.load_state_dict(state)
    reference = copy.deepcopy(model)
    config = UpdateConfig(
        **{"learning_rate": 1e-3, "warmup_steps": 0, "grad_clip": 1e9, "kl_coefficient": 0.1},
        **{"tis_cap": 2.0, "pack_tokens": 24, "share_prefixes": share, **more},
    )
    updater = Updater(model, config, reference, budget=20)
    metrics = updater.update([samples] * updates)
    return [p.grad.double() for p in model.parameters()], metrics


# AdamW divides gradients by their size, and so magnifies what the first update rounds.
@pytest.mark.parametrize(("updates", "off"), [(1, 1e-5), (2, 1e-4)])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_and_metrics_are_those_of_the_unshared_path(toy_policy, loss, updates, off):
    model = toy_policy.model
    state = copy.deepcopy(model.state_dict())

    @settings(max_examples=5, deadline=None, derandomize=True)
    @given(
        st.lists(
            st.tuples(ids.filter(lambda one: len(one) > 1), st.integers(-2, 2)),
            min_size=2,
            max_size=6,
        )
    )
    def holds(forest):
        samples = [
            replace(
                of_ids(*one, advantage=float(advantage)),
                episode=i // 2,
                grafted=tuple(at % 3 == 2 for at in range(len(one))),
            )
            for i, (one, advantage) in enumerate(forest)
        ]
        (one, seen), (other, expected) = (
            learned(model, state, samples, share, updates, loss=loss) for share in (True, False)
        )
        assert seen == pytest.approx(expected, rel=off, abs=off)
        scale = max(float(g.abs().max()) for g in other)
        for mine, theirs in zip(one, other, strict=True):
            assert float((mine - theirs).abs().max()) <= off * scale + 1e-7

    holds()


def test_gradient_checkpointing_and_half_precision_take_the_same_rows(toy_policy):
    model = toy_policy.model
    state = copy.deepcopy(model.state_dict())
    plain = learned(model, state, FAMILY, True)
    torch.testing.assert_close(
        plain[0], learned(model, state, FAMILY, True, gradient_checkpointing=True)[0]
    )
    row = Pack.of(FAMILY)
    with torch.autocast("cpu", torch.bfloat16):
        logprobs_T, _ = token_logprobs(model, row)
    exact_T, _ = token_logprobs(model, row)
    torch.testing.assert_close(logprobs_T, exact_T, rtol=0.1, atol=0.5)
