"""One step's update: the same whatever way the batch is cut."""

import copy

import pytest
import torch

from cleaner_rl.errors import UserError
from cleaner_rl.samples import Sample
from cleaner_rl.update import UpdateConfig, Updater


def weights_after(policy, minibatches, **settings):
    updater = Updater(policy.model, UpdateConfig(learning_rate=1e-2, warmup_steps=0, **settings))
    metrics = updater.update(minibatches)
    return [p.detach().clone() for p in policy.model.parameters()], metrics


def rest(sample):
    return sample.sampled_logprobs, sample.grafted


@pytest.fixture
def fresh(toy_policy):
    """Puts the policy's weights back."""
    state = {name: value.clone() for name, value in toy_policy.model.state_dict().items()}

    def fresh():
        toy_policy.model.load_state_dict(state)
        return toy_policy

    return fresh


@pytest.mark.parametrize("pack_tokens", [1, 30, 60])
def test_packs_give_the_loss_and_the_gradients_of_one_batch(fresh, samples, pack_tokens):
    # With a budget of one token, every sample is a pack of its own: nothing is packed at all.
    whole, one = weights_after(fresh(), [samples], pack_tokens=10_000, grad_clip=1e9)
    parts, many = weights_after(fresh(), [samples], pack_tokens=pack_tokens, grad_clip=1e9)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)
    assert one["loss"] == pytest.approx(many["loss"], abs=1e-6)
    assert one["grad_norm"] == pytest.approx(many["grad_norm"], rel=1e-4)


def test_samples_without_advantage_count_in_the_denominator_only(fresh, samples):
    idle = Sample(
        samples[0].ids,
        samples[0].mask,
        (0.0,) * len(samples[0]),
        samples[0].sampled_logprobs,
        samples[0].grafted,
    )
    _, alone = weights_after(fresh(), [samples])
    _, beside = weights_after(fresh(), [[*samples, idle]])
    share = alone["counted_tokens"] / (alone["counted_tokens"] + idle.counted)
    assert beside["trained_tokens"] == alone["trained_tokens"]
    assert beside["grad_norm"] == pytest.approx(alone["grad_norm"] * share, rel=1e-4)


def test_no_signal_changes_nothing(fresh, samples):
    idle = [Sample(s.ids, s.mask, (0.0,) * len(s), s.sampled_logprobs, s.grafted) for s in samples]
    before = [p.detach().clone() for p in fresh().model.parameters()]
    after, metrics = weights_after(fresh(), [idle])
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert metrics["trained_tokens"] == 0


def test_an_update_moves_praised_tokens_up(fresh, samples):
    from cleaner_rl.logprobs import token_logprobs
    from cleaner_rl.packing import Pack

    policy, row = fresh(), Pack.of(samples)
    before, _ = token_logprobs(policy.model, row)
    weights_after(policy, [samples])
    after, _ = token_logprobs(policy.model, row)
    gain = ((after - before) * row.advantages_T * row.mask_T).sum()
    assert gain > 0


def test_old_logprobs_are_those_before_the_first_update(fresh, samples):
    # With the same minibatch twice, the second update sees ratios away from one.
    _, once = weights_after(fresh(), [samples])
    _, twice = weights_after(fresh(), [samples, samples])
    assert once["kl"] == pytest.approx(0, abs=1e-7)
    assert twice["kl"] > 1e-5


def test_gap_is_measured_against_the_sampled_logprobs(fresh, samples):
    _, metrics = weights_after(fresh(), [samples])
    assert metrics["grafted_gap"] > 0 and metrics["sampled_gap"] > 0
    assert 0 < metrics["grafted_share"] < 1


def test_learning_rate_warms_up(toy_policy, samples):
    updater = Updater(toy_policy.model, UpdateConfig(learning_rate=1.0, warmup_steps=4))
    rates = [updater.update([samples, samples])["learning_rate"] for _ in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert updater.optimizer.param_groups[0]["lr"] == 1.0


def test_gradients_that_are_not_finite_change_nothing_and_stop_the_run(fresh, samples):
    policy = fresh()
    poisoned = [
        Sample(s.ids, s.mask, tuple(float("inf") if m else 0.0 for m in s.mask), *rest(s))
        for s in samples
    ]
    before = [p.detach().clone() for p in policy.model.parameters()]
    updater = Updater(policy.model, UpdateConfig())
    assert updater.update([poisoned])["skipped_updates"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, policy.model.parameters(), strict=True))
    with pytest.raises(UserError, match="not finite"):
        updater.update([poisoned] * 10)


def test_state_continues_the_updates_exactly(fresh, samples):
    config = UpdateConfig(learning_rate=1e-2)
    policy = fresh()
    updater = Updater(policy.model, config)
    updater.update([samples])
    middle = {name: value.clone() for name, value in policy.model.state_dict().items()}
    state = copy.deepcopy(updater.state())
    updater.update([samples])
    expected = [p.detach().clone() for p in policy.model.parameters()]

    policy.model.load_state_dict(middle)
    resumed = Updater(policy.model, config)
    resumed.load_state(state)
    resumed.update([samples])
    assert all(torch.equal(a, b) for a, b in zip(expected, policy.model.parameters(), strict=True))


def test_bfloat16_forward_trains(fresh, samples):
    _, metrics = weights_after(fresh(), [samples], dtype="bfloat16")
    _, exact = weights_after(fresh(), [samples])
    assert metrics["loss"] == pytest.approx(exact["loss"], abs=0.05)
