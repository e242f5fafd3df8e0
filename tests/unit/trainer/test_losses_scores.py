"""Losses over scores, each against a value computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tandem_trainer.losses import bce_loss, bpr_loss, gbce_beta, gbce_loss, rating_mse, triplet_loss

POSITIVE = torch.tensor([1.0, -0.5])
NEGATIVE = torch.tensor([[0.5, -1.0], [0.0, 2.0]])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


ROW_BCE = [
    (softplus(-1.0) + softplus(0.5) + softplus(-1.0)) / 3,
    (softplus(0.5) + softplus(0.0) + softplus(2.0)) / 3,
]


def test_bce_is_the_mean_of_log_losses_over_a_positive_and_its_negatives() -> None:
    assert bce_loss(POSITIVE, NEGATIVE).item() == pytest.approx(sum(ROW_BCE) / 2, abs=1e-6)
    labels = torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    whole = F.binary_cross_entropy_with_logits(torch.cat([POSITIVE[:, None], NEGATIVE], dim=1), labels)
    torch.testing.assert_close(bce_loss(POSITIVE, NEGATIVE), whole)


def test_beta_is_that_of_the_paper() -> None:
    # alpha = 256 / 3415; beta = alpha (t (1 - 1/alpha) + 1/alpha) = 1 - t (1 - alpha)
    rate = 256 / 3415
    assert gbce_beta(256, 3416, 0.0) == pytest.approx(1.0)
    assert gbce_beta(256, 3416, 1.0) == pytest.approx(rate)
    assert gbce_beta(256, 3416, 0.75) == pytest.approx(1 - 0.75 * (1 - rate))


def test_gbce_raises_the_probability_of_the_positive_alone_to_beta() -> None:
    beta = 0.3
    by_hand = -math.log((1 / (1 + math.exp(-1.0))) ** beta) + softplus(0.5) + softplus(-1.0)
    assert gbce_loss(POSITIVE[:1], NEGATIVE[:1], beta).item() == pytest.approx(by_hand / 3, abs=1e-6)
    torch.testing.assert_close(gbce_loss(POSITIVE, NEGATIVE, 1.0), bce_loss(POSITIVE, NEGATIVE))


def test_gbce_with_t_one_and_all_items_but_the_target_drawn_is_bce() -> None:
    assert gbce_beta(9, 10, 1.0) == pytest.approx(1.0)


def test_bpr_is_softplus_of_negative_minus_positive() -> None:
    pairs = [softplus(-0.5), softplus(-2.0), softplus(0.5), softplus(2.5)]
    assert bpr_loss(POSITIVE, NEGATIVE).item() == pytest.approx(sum(pairs) / 4, abs=1e-6)


def test_a_triplet_costs_what_it_lacks_to_the_margin_and_nothing_beyond() -> None:
    # margin - positive + negative: .2 - 1 + .5 and .2 - 1 - 1 are below 0; .2 + .5 + 0 = .7; .2 + .5 + 2 = 2.7
    assert triplet_loss(POSITIVE, NEGATIVE, 0.2).item() == pytest.approx((0.7 + 2.7) / 4, abs=1e-6)
    assert triplet_loss(POSITIVE[:1], NEGATIVE[:1], 0.2) == 0


def test_rating_mse_is_the_weighted_mean_of_squares() -> None:
    predicted, rating = torch.tensor([3.0, 5.0]), torch.tensor([1.0, 4.0])
    assert rating_mse(predicted, rating).item() == pytest.approx(2.5)
    assert rating_mse(predicted, rating, torch.tensor([1.0, 3.0])).item() == pytest.approx((4 + 3) / 4)


@pytest.mark.parametrize(
    "loss", [bce_loss, lambda p, n, w: gbce_loss(p, n, 0.3, w), bpr_loss, lambda p, n, w: triplet_loss(p, n, 0.9, w)]
)
def test_weights_are_the_share_of_a_row_in_the_mean(loss) -> None:  # type: ignore[no-untyped-def]
    parts = [loss(POSITIVE, NEGATIVE, torch.tensor(w)).item() for w in ([1.0, 0.0], [0.0, 1.0], [3.0, 1.0])]
    assert parts[0] != parts[1]
    assert parts[2] == pytest.approx((3 * parts[0] + parts[1]) / 4, abs=1e-6)


def test_a_negative_that_is_not_there_costs_nothing() -> None:
    there = torch.tensor([[True, False], [True, True]])
    assert bpr_loss(POSITIVE, NEGATIVE, None, there).item() == pytest.approx(
        (softplus(-0.5) + softplus(0.5) + softplus(2.5)) / 3, abs=1e-6
    )
    assert triplet_loss(POSITIVE, NEGATIVE, 0.2, None, torch.zeros(2, 2, dtype=torch.bool)) == 0
    one = bce_loss(POSITIVE[:1], NEGATIVE[:1], None, there[:1])
    assert one.item() == pytest.approx((softplus(-1.0) + softplus(0.5)) / 3, abs=1e-6)
