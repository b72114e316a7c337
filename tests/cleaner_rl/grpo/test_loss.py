"""The losses against numbers worked out by hand."""

import math

import pytest
import torch

from cleaner_rl.grpo.loss import (
    LOSSES,
    Clip,
    LossInputs,
    importance_weights,
    kl_estimate,
    sample_weights,
)
from cleaner_rl.grpo.samples import Sample

INF = float("inf")


def loss_of(name, ratios, advantages, mask=None, denominator=None, samples=None, **bounds):
    """Loss, gradient of the log-probabilities and metrics of tokens with old log-probability 0."""
    logprobs = torch.tensor(ratios).log().requires_grad_()
    mask = torch.tensor(mask if mask is not None else [True] * len(ratios))
    sample_T = torch.tensor(samples if samples is not None else [0] * len(ratios))
    tokens = LossInputs(
        logprobs,
        torch.zeros(len(ratios)),
        torch.tensor(advantages),
        mask,
        torch.ones(len(ratios)),
        sample_T,
    )
    rule = LOSSES[name]
    clip = rule.clip(bounds.get("low"), bounds.get("high"), bounds.get("dual", 10.0))
    loss, metrics = rule.function(tokens, denominator or float(mask.sum()), clip)
    loss.backward()
    return loss.item(), logprobs.grad.tolist(), metrics


def sample(counted, advantage=1.0, episode=None):
    mask = (False, *[True] * counted)
    return Sample(
        (0,) * len(mask),
        mask,
        tuple(advantage * m for m in mask),
        (0.0,) * len(mask),
        (False,) * len(mask),
        episode,
    )


@pytest.mark.parametrize("name", LOSSES)
def test_on_policy_the_gradient_is_the_plain_policy_gradient(name):
    # d/dlogprob of -(2 logprob_0 - 1 logprob_1) / 2, whatever the loss. All of gspo's tokens share
    # a ratio of 1, and the denominator here is the same for all.
    _, gradient, metrics = loss_of(name, [1.0, 1.0], [2.0, -1.0])
    assert gradient == pytest.approx([-1.0, 0.5])
    assert metrics["clipped"] == 0


def test_at_ratio_one_dapo_is_the_mean_advantage():
    assert loss_of("dapo", [1.0, 1.0], [2.0, -1.0])[0] == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value"),
    [
        (1.5, 1.0, -1.28),  # clipped above
        (1.25, 1.0, -1.25),  # below the higher clip
        (0.5, 1.0, -0.5),  # a fall is not clipped when the advantage is positive
        (0.5, -1.0, 0.8),  # clipped below
        (1.5, -1.0, 1.5),  # a rise is not clipped when it is negative
        (20.0, -1.0, 10.0),  # but never beyond the dual clip
    ],
)
def test_clipping_of_dapo(ratio, advantage, value):
    assert loss_of("dapo", [ratio], [advantage])[0] == pytest.approx(value)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo"])
def test_grpo_clips_at_the_same_distance_above(name):
    assert loss_of(name, [1.25], [1.0])[0] == pytest.approx(-1.2)
    assert LOSSES["grpo"].clip(None, None, 10.0) == Clip(0.2, 0.2, 10.0)


def test_dual_clip_can_be_switched_off():
    assert loss_of("dapo", [20.0], [-1.0], dual=INF)[0] == pytest.approx(20.0)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize(("ratio", "advantage"), [(1.5, 1.0), (0.5, -1.0), (20.0, -1.0)])
def test_clipped_tokens_have_no_gradient(name, ratio, advantage):
    _, gradient, metrics = loss_of(name, [ratio], [advantage])
    assert gradient == [0.0]
    assert metrics["clipped"] == 1


def test_gspo_takes_the_geometric_mean_ratio_of_each_sample():
    # Sample 0: sqrt(4 * 0.25) = 1, within any bound; sample 1: sqrt(2 * 2) = 2.
    loss, gradient, _ = loss_of(
        "gspo", [4.0, 0.25, 2.0, 2.0], [1.0] * 4, samples=[0, 0, 1, 1], low=0.5, high=3.0
    )
    assert loss == pytest.approx(-(1 + 1 + 2 + 2) / 4)
    assert gradient == pytest.approx([-0.25, -0.25, -0.5, -0.5])


def test_gspo_equals_the_sequence_level_formula_with_one_advantage():
    logprobs = torch.tensor([0.3, -0.1, 0.2], requires_grad=True)
    (-(logprobs.mean().exp() * 0.7)).backward()
    ratios = logprobs.detach().exp().tolist()
    loss, gradient, _ = loss_of("gspo", ratios, [0.7] * 3, low=1.0, high=1.0)
    assert loss == pytest.approx(-0.7 * math.exp(0.4 / 3))
    assert gradient == pytest.approx(logprobs.grad.tolist())


def test_gspo_clips_a_whole_sample():
    _, gradient, metrics = loss_of("gspo", [1.001, 1.001], [1.0, 1.0])
    assert gradient == [0.0, 0.0]
    assert metrics["clipped"] == 2


def test_gspo_leaves_masked_tokens_out_of_the_ratio():
    loss, _, _ = loss_of("gspo", [2.0, 100.0], [1.0, 1.0], mask=[True, False], high=3.0)
    assert loss == pytest.approx(-2.0)


def test_cispo_cuts_the_weight_and_keeps_the_gradient():
    # r = 8 is cut to 5: the gradient is 5 A, not 0; no gradient flows through the weight itself.
    loss, gradient, metrics = loss_of("cispo", [8.0, 0.01], [1.0, 1.0], denominator=1.0)
    assert gradient == pytest.approx([-5.0, -0.01])
    assert loss == pytest.approx(-(5 * math.log(8) + 0.01 * math.log(0.01)))
    assert metrics["clipped"] == 1


@pytest.mark.parametrize("name", LOSSES)
def test_masked_tokens_count_nowhere(name):
    alone = loss_of(name, [1.1], [1.0])[0]
    assert loss_of(name, [1.1, 3.0], [1.0, 5.0], mask=[True, False])[0] == pytest.approx(alone)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bad", [INF, -INF, float("nan")])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_numbers_that_are_not_finite_show(name, bad, where):
    # The update is skipped then. What a loss clips away shows in the divergence, a metric.
    numbers = [torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0])]
    numbers[where][1] = bad
    logprobs = numbers[0].requires_grad_()
    counted = torch.tensor([True, True])
    samples = torch.zeros(2, dtype=torch.long)
    tokens = LossInputs(logprobs, *numbers[1:], counted, torch.ones(2), samples)
    rule = LOSSES[name]
    loss, _ = rule.function(tokens, 2.0, rule.clip(None, None, 10.0))
    loss.backward()
    seen = [loss[None], logprobs.grad, kl_estimate(numbers[1], logprobs.detach())]
    assert not torch.cat(seen).isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("excess", [89.0, 120.0])
def test_a_ratio_beyond_float32_has_the_gradient_of_a_large_one(name, advantage, excess):
    def result(log_ratio):
        logprobs = torch.tensor([-1.0, -0.5], requires_grad=True)
        old = torch.tensor([-1.0, -0.5 - log_ratio])
        advantages, counted = torch.full((2,), advantage), torch.tensor([True, True])
        # The two tokens are samples of their own.
        tokens = LossInputs(logprobs, old, advantages, counted, torch.ones(2), torch.arange(2))
        rule = LOSSES[name]
        loss, metrics = rule.function(tokens, 2.0, rule.clip(None, None, 10.0))
        loss.backward()
        return loss.item(), logprobs.grad.tolist(), metrics["ratios_bounded"].item()

    loss, gradient, bounded = result(excess)
    expected_loss, expected, _ = result(20.0)
    assert loss == pytest.approx(expected_loss)
    assert gradient[0] == pytest.approx(expected[0])
    # The bound is constant, and so gives no gradient where no clip does; CISPO's weight always is.
    assert gradient[1] == pytest.approx(expected[1] if name == "cispo" else 0.0)
    assert bounded == 1 and result(19.0)[2] == 0


def test_the_kl_estimate_of_a_token_beyond_float32_is_finite():
    logprobs = torch.tensor([-100.0, -1.0], requires_grad=True)
    kl_T = kl_estimate(logprobs, torch.tensor([-1.0, -100.0]))
    kl_T.sum().backward()
    assert kl_T.tolist() == pytest.approx([math.exp(20) - 21, 98.0])
    assert logprobs.grad.tolist() == [0.0, 1.0]  # what the reference finds impossible is held back


def test_denominator_is_the_minibatchs():
    assert loss_of("dapo", [1.0], [1.0], denominator=4.0)[0] == pytest.approx(-0.25)


def test_tokens_weigh_one_each():
    assert sample_weights([sample(2), sample(3)], "tokens", 100) == ([1.0, 1.0], 5.0)


def test_episodes_weigh_one_each_whatever_their_samples():
    # Episode 7 has 2 + 2 tokens in two samples, episode 8 has 5; the last has nothing that counts.
    samples = [sample(2, episode=7), sample(2, episode=7), sample(5, episode=8), sample(0)]
    weights, denominator = sample_weights(samples, "episodes", 100)
    assert weights[:3] == [0.25, 0.25, 0.2]
    assert denominator == 2.0


def test_budget_weighs_tokens_by_what_an_episode_may_have():
    assert sample_weights([sample(2), sample(3)], "budget", 8) == ([0.125, 0.125], 2.0)


def test_kl_estimate_by_hand_and_its_sign():
    policy = torch.tensor([0.5, 0.5], requires_grad=True)
    other = torch.tensor([0.25, 0.5])
    estimate = kl_estimate(policy.log(), other.log())
    assert estimate.tolist() == pytest.approx([0.5 + math.log(2) - 1, 0.0])
    assert (kl_estimate(torch.randn(100), torch.randn(100)) >= 0).all()


def test_importance_weights_are_truncated_and_spare_grafted_tokens():
    old, sampled = torch.tensor([0.5, 0.9, 0.9]).log(), torch.tensor([1.0, 0.1, 0.1]).log()
    weights = importance_weights(old, sampled, torch.tensor([False, False, True]), 2.0)
    assert weights.tolist() == pytest.approx([0.5, 2.0, 1.0])
