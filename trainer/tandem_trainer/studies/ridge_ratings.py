"""Ratings from item vectors: biases, and a ridge regression per user on what the user is known to have rated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHRINK = 5.0  # ratings of the mean that every item and user begins with
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass(frozen=True, slots=True)
class ItemRatings:
    """What training users say of items. mean: of all ratings. bias: float64 [N], 0 for an item without any.

    low, high: the scale's ends, as seen in training.
    """

    mean: float
    bias: NDArray[np.float64]
    low: float
    high: float


def fit_items(rows: NDArray[np.integer], ratings: NDArray[np.floating], n_items: int) -> ItemRatings:
    """Average training ratings, [E] each, by catalogue row; few ratings are drawn towards the mean."""
    mean = float(ratings.mean())
    sums = np.bincount(rows, ratings - mean, minlength=n_items)
    bias = sums / (np.bincount(rows, minlength=n_items) + SHRINK)
    return ItemRatings(mean, bias, float(ratings.min()), float(ratings.max()))


def predict_user(
    items: ItemRatings,
    vectors: NDArray[np.float32],
    known: NDArray[np.integer],
    ratings: NDArray[np.floating],
    wanted: NDArray[np.integer],
    strength: float,
) -> NDArray[np.float64]:
    """Return float64 [w], ratings that a user would give, from the h ratings known; h may be 0.

    mean + item's bias + user's bias + w'e, with w the ridge solution of strength above 0 on what the biases leave;
    clipped to the scale. vectors: float32 [N, D].
    """
    base = items.mean + items.bias
    left = ratings - base[known]
    user_bias = left.sum() / (len(left) + SHRINK)
    x = vectors[known].astype(np.float64)
    gram = x.T @ x + strength * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ (left - user_bias))
    predicted: NDArray[np.float64] = np.clip(
        base[wanted] + user_bias + vectors[wanted] @ weights, items.low, items.high
    )
    return predicted
