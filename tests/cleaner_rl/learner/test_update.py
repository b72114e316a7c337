"""One step's update: the same however the batch is split."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from cleaner_rl.errors import UserError
from cleaner_rl.grpo.loss import LOSSES
from cleaner_rl.grpo.samples import Sample
from cleaner_rl.learner.logprobs import token_logprobs
from cleaner_rl.learner.packing import Pack
from cleaner_rl.learner.update import Updater
from cleaner_rl.settings import UpdateConfig


def weights_after(policy, minibatches, reference=None, budget=512, dtype="float32", **settings):
    config = UpdateConfig(learning_rate=1e-2, warmup_steps=0, **settings)
    updater = Updater(policy.model, config, reference, budget=budget, dtype=dtype)
    metrics = updater.update(minibatches)
    return [p.detach().clone() for p in policy.model.parameters()], metrics


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


def test_a_masked_vocabulary_is_learned_from(fresh, samples):
    policy = fresh()
    masked = next(i for i in range(4, 300) if all(i not in sample.ids for sample in samples))
    policy.model.lm_head.register_forward_hook(
        lambda _, __, logits: logits.index_fill(-1, torch.tensor(masked), -math.inf)
    )
    _, metrics = weights_after(policy, [samples])
    assert metrics["skipped_updates"] == 0 and math.isfinite(metrics["loss"])


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


def test_an_update_makes_praised_tokens_likelier(fresh, samples):
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


@pytest.mark.parametrize("pack_tokens", [30, 10_000])
@pytest.mark.parametrize("split", [8, 4])
def test_an_update_shows_every_row_once_with_the_values_before_it(
    fresh, samples, split, pack_tokens
):
    policy, shown = fresh(), {}

    def see(row, *values_T):
        for sample, logprobs, entropies in row.by_sample(*values_T):
            assert shown.setdefault(id(sample), (logprobs, entropies))[0] is logprobs

    expected = [
        token_logprobs(policy.model, Pack.of([s]), wanted_T=Pack.of([s]).mask_T) for s in samples
    ]
    updater = Updater(policy.model, UpdateConfig(pack_tokens=pack_tokens, learning_rate=1e-2))
    updater.update([samples[:split], samples[split:]] if split < 8 else [samples], see)
    assert len(shown) == len(samples)
    for sample, (logprobs_T, entropies_T) in zip(samples, expected, strict=True):
        torch.testing.assert_close(shown[id(sample)][0], logprobs_T.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(shown[id(sample)][1], entropies_T, rtol=1e-4, atol=1e-5)


def test_gap_is_measured_against_the_sampled_logprobs(fresh, samples):
    _, metrics = weights_after(fresh(), [samples])
    assert metrics["grafted_gap"] > 0 and metrics["sampled_gap"] > 0
    assert 0 < metrics["grafted_share"] < 1


def test_learning_rate_warms_up(toy_policy, samples):
    updater = Updater(toy_policy.model, UpdateConfig(learning_rate=1.0, warmup_steps=4))
    rates = [updater.update([samples, samples])["learning_rate"] for _ in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert updater.optimizer.adamw.param_groups[0]["lr"] == 1.0


def with_advantages(sample, value):
    return replace(sample, advantages=tuple(value if m else 0.0 for m in sample.mask))


def test_gradients_that_are_not_finite_change_nothing_and_stop_the_run(fresh, samples):
    policy = fresh()
    poisoned = [with_advantages(s, 3e38) for s in samples]
    before = [p.detach().clone() for p in policy.model.parameters()]
    updater = Updater(policy.model, UpdateConfig())
    assert updater.update([poisoned])["skipped_updates"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, policy.model.parameters(), strict=True))
    updater.require_finite()
    updater.update([poisoned] * 10)
    with pytest.raises(UserError, match="11 updates in a row were not finite"):
        updater.require_finite()


def test_an_update_that_was_done_ends_the_row_of_skipped_ones(fresh, samples):
    poisoned = [with_advantages(s, float("nan")) for s in samples]
    updater = Updater(fresh().model, UpdateConfig())
    assert updater.update([poisoned] * 4)["skipped_updates"] == 4
    updater.require_finite()
    updater.update([poisoned, samples, poisoned])
    updater.require_finite()
    updater.update([poisoned] * 4)
    with pytest.raises(UserError, match=r"5 updates in a row .* --learning-rate"):
        updater.require_finite()


@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("field", ["advantages", "sampled_logprobs"])
@pytest.mark.parametrize("pack_tokens", [10_000, 30])
def test_one_sample_that_is_not_finite_skips_the_update(fresh, samples, bad, field, pack_tokens):
    broken = replace(samples[0], **{field: tuple(bad if m else 0.0 for m in samples[0].mask)})
    before = [p.detach().clone() for p in fresh().model.parameters()]
    after, metrics = weights_after(fresh(), [[*samples, broken]], pack_tokens=pack_tokens)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert metrics["skipped_updates"] == 1
    assert all(map(math.isfinite, metrics.values()))


def test_one_ratio_beyond_float32_does_not_lose_the_update(fresh, samples, monkeypatch):
    original = Updater._logprobs

    def logprobs(self, row, model=None):
        logprobs_T, entropies_T = original(self, row, model)
        if not torch.is_grad_enabled():  # the old log-probabilities
            logprobs_T[row.mask_T.nonzero()[3]] -= 95
        return logprobs_T, entropies_T

    monkeypatch.setattr(Updater, "_logprobs", logprobs)
    before = [p.detach().clone() for p in fresh().model.parameters()]
    after, metrics = weights_after(fresh(), [samples, []], pack_tokens=10_000)
    assert metrics["skipped_updates"] == 0 and metrics["ratios_bounded"] == 1
    assert all(map(math.isfinite, metrics.values()))
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_skipped_update_is_in_no_metric_but_its_count(fresh, samples):
    broken = [with_advantages(s, float("nan")) for s in samples]
    expected, alone = weights_after(fresh(), [samples, []])
    got, beside = weights_after(fresh(), [samples, broken])
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
    assert alone.pop("skipped_updates") == 0 and beside.pop("skipped_updates") == 1
    assert beside.pop("counted_tokens") == 2 * alone.pop("counted_tokens")
    assert beside == alone


def renumbered(sample, old, new):
    return replace(sample, ids=tuple(new if i == old else i for i in sample.ids))


@pytest.mark.parametrize("pack_tokens", [10_000, 30, 1])
def test_a_pass_that_is_not_finite_harms_no_weight(fresh, samples, pack_tokens):
    # Token 7 has no embedding that is a number; only the first sample has one, in its prompt.
    first, *others = [renumbered(s, 7, 8) for s in samples]
    broken = replace(first, ids=(7, *first.ids[1:]))

    def break_token(module, inputs, output):
        return output.masked_fill((inputs[0] == 7)[..., None], float("nan"))

    policy = fresh()
    before = [p.detach().clone() for p in policy.model.parameters()]
    hook = policy.model.get_input_embeddings().register_forward_hook(break_token)
    after, metrics = weights_after(policy, [[broken, *others]], pack_tokens=pack_tokens)
    hook.remove()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert metrics["skipped_updates"] == 1
    assert metrics["trained_tokens"] == 0


def test_weights_that_are_not_finite_stop_the_run(fresh, samples):
    policy = fresh()
    with torch.no_grad():
        policy.model.model.norm.weight.fill_(float("nan"))
    updater = Updater(policy.model, UpdateConfig())
    for _ in range(5):
        assert updater.update([samples])["skipped_updates"] == 1
    with pytest.raises(UserError, match="5 updates in a row were not finite"):
        updater.require_finite()


def test_an_update_that_fails_halfway_says_that_the_weights_are_of_no_step(
    fresh, samples, monkeypatch
):
    updater = Updater(fresh().model, UpdateConfig())
    step = updater.optimizer.step

    def step_and_fail(*arguments):
        step(*arguments)
        raise MemoryError

    monkeypatch.setattr(updater.optimizer, "step", step_and_fail)
    with pytest.raises(MemoryError):
        updater.update([samples])
    assert not updater.between_steps
    monkeypatch.undo()
    updater.update([samples])
    assert updater.between_steps


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_the_same_however_the_batch_is_split(fresh, samples, loss):
    # Two updates, so that ratios leave 1; episodes of two samples, so that weights are shared.
    paired = [replace(s, episode=i // 2) for i, s in enumerate(samples)]
    settings = {"loss": loss, "kl_coefficient": 0.1, "tis_cap": 2.0, "grad_clip": 1e9}
    reference = copy.deepcopy(fresh().model)
    whole, one = weights_after(
        fresh(), [paired, paired], pack_tokens=10_000, reference=reference, **settings
    )
    parts, many = weights_after(
        fresh(), [paired, paired], pack_tokens=30, reference=reference, **settings
    )
    assert one["kl"] > 0
    torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-4)
    assert one["loss"] == pytest.approx(many["loss"], abs=1e-5)


def test_each_loss_learns_something_else(fresh, samples):
    learnt = [weights_after(fresh(), [samples], loss=loss, budget=25) for loss in LOSSES]
    losses = {round(metrics["grad_norm"], 6) for _, metrics in learnt}
    # gspo is grpo, and cispo is dapo, as long as ratios are 1.
    assert len(losses) == 3


def test_kl_term_pulls_back_and_teaches_samples_without_advantage(fresh, samples):
    idle = [with_advantages(s, 0.0) for s in samples]
    reference = copy.deepcopy(fresh().model)
    policy = fresh()
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.mul_(1.1)
    updater = Updater(
        policy.model,
        UpdateConfig(learning_rate=1e-3, warmup_steps=0, kl_coefficient=1.0),
        reference,
    )
    distances = [updater.update([idle])["reference_kl"] for _ in range(5)]
    assert distances[0] > distances[-1] > 0


def test_reference_is_its_own_policy_at_the_start(fresh, samples):
    reference = copy.deepcopy(fresh().model)
    _, metrics = weights_after(fresh(), [samples], reference=reference, kl_coefficient=0.5)
    assert metrics["reference_kl"] == pytest.approx(0, abs=1e-7)


def test_kl_without_a_reference_is_refused(toy_policy):
    with pytest.raises(ValueError, match="needs a reference"):
        Updater(toy_policy.model, UpdateConfig(kl_coefficient=0.1))


def test_importance_weights_scale_the_gradient(fresh, samples):
    """A sampler that thought every token twice as likely halves what it teaches."""
    policy, row = fresh(), Pack.of(samples)
    logprobs = token_logprobs(policy.model, row)[0].detach() + math.log(2)
    parts = logprobs.split([len(sample) for sample in samples])
    doubled = [
        replace(s, sampled_logprobs=tuple(part.tolist()), grafted=(False,) * len(s))
        for s, part in zip(samples, parts, strict=True)
    ]
    _, plain = weights_after(fresh(), [doubled])
    _, weighted = weights_after(fresh(), [doubled], tis_cap=2.0)
    assert weighted["importance"] == pytest.approx(0.5, rel=1e-5)
    assert weighted["importance_capped"] == 0
    assert weighted["grad_norm"] == pytest.approx(plain["grad_norm"] / 2, rel=1e-4)


def test_gradient_checkpointing_changes_nothing(fresh, samples):
    plain, _ = weights_after(fresh(), [samples])
    recomputed, _ = weights_after(fresh(), [samples], gradient_checkpointing=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))


def test_gradient_checkpointing_recomputes_layers_and_is_off_afterwards(fresh, samples):
    policy, calls = fresh(), []
    layer = policy.model.model.layers[0]
    hook = layer.mlp.register_forward_pre_hook(lambda *_: calls.append(layer.mlp.training))
    weights_after(policy, [samples], gradient_checkpointing=True)
    hook.remove()
    assert calls == [False, False]  # once forward, once again backward, never in training mode
    assert not layer.training and not layer.gradient_checkpointing


def test_float16_overflow_is_skipped_and_lowers_the_scale(fresh, samples):
    policy = fresh()
    updater = Updater(policy.model, UpdateConfig(warmup_steps=0), dtype="float16")
    large = [with_advantages(s, 1e3) for s in samples]
    scales, skipped = [], []
    for _ in range(12):
        skipped.append(updater.update([large])["skipped_updates"])
        scales.append(updater.state()["scaler"]["scale"])
    assert skipped[0] == 1 and scales[0] == 2.0**15
    assert skipped[-1] == 0


def test_frozen_weights_stay(fresh, samples):
    policy = fresh()
    frozen = policy.model.get_input_embeddings().weight.requires_grad_(False)
    before = frozen.detach().clone()
    weights_after(policy, [samples])
    frozen.requires_grad_(True)
    assert torch.equal(frozen, before)


def test_state_continues_the_updates_exactly(fresh, samples):
    config = UpdateConfig(learning_rate=1e-2)
    policy = fresh()
    updater = Updater(policy.model, config)
    updater.update([samples])
    middle = {name: value.clone() for name, value in policy.model.state_dict().items()}
    state, tensors = copy.deepcopy((updater.state(), updater.tensors()))
    updater.update([samples])
    expected = [p.detach().clone() for p in policy.model.parameters()]

    policy.model.load_state_dict(middle)
    resumed = Updater(policy.model, config)
    resumed.load_state(state)
    for name, tensor in resumed.tensors().items():
        tensor.copy_(tensors[name])
    resumed.update([samples])
    assert all(torch.equal(a, b) for a, b in zip(expected, policy.model.parameters(), strict=True))


def test_bfloat16_forward_trains(fresh, samples):
    _, metrics = weights_after(fresh(), [samples], dtype="bfloat16")
    _, exact = weights_after(fresh(), [samples])
    assert metrics["loss"] == pytest.approx(exact["loss"], abs=0.05)
