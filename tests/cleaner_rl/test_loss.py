"""The DAPO loss against numbers worked out by hand."""

import pytest
import torch

from cleaner_rl.loss import dapo_loss


def loss_of(ratios, advantages, mask=None, denominator=None, **settings):
    logprobs = torch.tensor(ratios).log().requires_grad_()
    old = torch.zeros(len(ratios))
    mask = torch.tensor(mask if mask is not None else [True] * len(ratios))
    loss, metrics = dapo_loss(
        logprobs, old, torch.tensor(advantages), mask, denominator or float(mask.sum()), **settings
    )
    loss.backward()
    return loss.item(), logprobs.grad.tolist(), metrics


def test_at_ratio_one_it_is_the_mean_advantage_and_its_gradient():
    loss, gradient, _ = loss_of([1.0, 1.0], [2.0, -1.0])
    assert loss == pytest.approx(-0.5)
    assert gradient == pytest.approx([-1.0, 0.5])


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
def test_clipping(ratio, advantage, value):
    assert loss_of([ratio], [advantage])[0] == pytest.approx(value)


@pytest.mark.parametrize(("ratio", "advantage"), [(1.5, 1.0), (0.5, -1.0), (20.0, -1.0)])
def test_clipped_tokens_have_no_gradient(ratio, advantage):
    _, gradient, metrics = loss_of([ratio], [advantage])
    assert gradient == [0.0]
    assert metrics["clipped"] == 1


def test_masked_tokens_count_nowhere():
    assert loss_of([1.0, 1.0], [1.0, 5.0], mask=[True, False])[0] == pytest.approx(-1.0)


def test_masked_tokens_with_wild_numbers_leave_the_gradient_clean():
    logprobs = torch.tensor([-1.0, float("-inf")], requires_grad=True)
    loss, _ = dapo_loss(
        logprobs, torch.tensor([-1.0, 0.0]), torch.ones(2), torch.tensor([True, False]), 1.0
    )
    loss.backward()
    assert logprobs.grad.tolist() == [-1.0, 0.0]


def test_numbers_that_are_not_finite_leave_the_loss():
    logprobs = torch.tensor([-1.0, float("nan")], requires_grad=True)
    loss, _ = dapo_loss(logprobs, torch.tensor([-1.0, -1.0]), torch.ones(2), torch.ones(2) > 0, 2.0)
    loss.backward()
    assert loss.item() == -0.5
    assert logprobs.grad.tolist() == [-0.5, 0.0]


def test_denominator_is_the_minibatchs():
    assert loss_of([1.0], [1.0], denominator=4.0)[0] == pytest.approx(-0.25)
