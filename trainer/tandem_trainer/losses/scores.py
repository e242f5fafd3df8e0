"""Losses over the score of a positive and those of its own few negatives, and of a predicted rating."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bce_loss(positive: Tensor, negative: Tensor, weight: Tensor | None = None, there: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of a positive against k negatives.

    positive: float [B], log-odds. negative: float [B, k]. weight: float [B], at least one above 0; None: all 1.
    there: bool [B, k], False where a negative could not be drawn. Returns a scalar (nats): the weighted mean over rows
    of the sum over the positive and its negatives, divided by 1 + k.
    """
    return gbce_loss(positive, negative, 1.0, weight, there)


def gbce_beta(negatives: int, catalogue: int, t: float) -> float:
    """Return the exponent of the positive's probability in gBCE (Petrov and Macdonald, RecSys 2023).

    negatives: k for each positive, 1 .. catalogue - 1. t: 0 (plain BCE) .. 1 (calibrated as the full softmax is).
    """
    rate = negatives / (catalogue - 1)
    return rate * (t * (1 - 1 / rate) + 1 / rate)


def gbce_loss(
    positive: Tensor,
    negative: Tensor,
    beta: float,
    weight: Tensor | None = None,
    there: Tensor | None = None,
) -> Tensor:
    """Generalised binary cross-entropy: sampled negatives no longer make the model overconfident.

    Arguments and mean as in `bce_loss`; beta: as `gbce_beta` gives it.
    """
    losses = F.softplus(negative)  # - log(1 - sigmoid)
    if there is not None:
        losses = losses * there
    return _weighted_mean((beta * F.softplus(-positive) + losses.sum(1)) / (1 + negative.shape[1]), weight)


def bpr_loss(positive: Tensor, negative: Tensor, weight: Tensor | None = None, there: Tensor | None = None) -> Tensor:
    """Bayesian personalised ranking (Rendle et al., UAI 2009): softplus(negative - positive).

    Arguments as in `bce_loss`, scores on any scale. Returns the weighted mean over pairs.
    """
    return _mean_over_pairs(F.softplus(negative - positive[:, None]), weight, there)


def triplet_loss(
    positive: Tensor, negative: Tensor, margin: float, weight: Tensor | None = None, there: Tensor | None = None
) -> Tensor:
    """Hinge: a positive shall score `margin` above a negative (Weston et al., 2011, WSABIE without rank weights).

    Arguments as in `bce_loss`, scores on the margin's scale. Returns the weighted mean over pairs.
    """
    return _mean_over_pairs(F.relu(margin - positive[:, None] + negative), weight, there)


def rating_mse(predicted: Tensor, rating: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the weighted mean squared error; all float [B], weight None: all 1."""
    return _weighted_mean((predicted - rating) ** 2, weight)


def _mean_over_pairs(losses: Tensor, weight: Tensor | None, there: Tensor | None) -> Tensor:
    counts = torch.ones_like(losses) if there is None else there.to(losses.dtype)
    if weight is not None:
        counts = counts * weight[:, None]
    # Where a whole batch has no negative there is nothing to learn, and nothing to divide by.
    return (losses * counts).sum() / counts.sum().clamp(min=torch.finfo(losses.dtype).tiny)


def _weighted_mean(losses: Tensor, weight: Tensor | None) -> Tensor:
    return losses.mean() if weight is None else (losses * weight).sum() / weight.sum()
