"""What any rating model must beat: the mean, and the mean with a bias per user and per item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_trainer.ratings.inputs import Ratings


@dataclass(frozen=True, slots=True)
class Biases:
    """mean + user + item; users: float64 [U + 1], items: float64 [N + 1], 0 for the unknown (place 0)."""

    mean: float
    users: NDArray[np.float64]
    items: NDArray[np.float64]

    def predict(self, ratings: Ratings) -> NDArray[np.float64]:
        """Return float64 [P], unclipped."""
        return self.mean + self.users[ratings.users] + self.items[ratings.items]


def fit_biases(
    train: Ratings, n_users: int, n_items: int, user_shrink: float = 5.0, item_shrink: float = 5.0, sweeps: int = 10
) -> Biases:
    """Fit by alternating shrunken means (Koren, 2008): bias = sum of what is left / (count + shrink).

    n_users, n_items: with the unknown, place 0.
    """
    mean = float(train.values.mean(dtype=np.float64))
    users, items = np.zeros(n_users), np.zeros(n_items)
    user_count = np.bincount(train.users, minlength=n_users) + user_shrink
    item_count = np.bincount(train.items, minlength=n_items) + item_shrink
    for _ in range(sweeps):
        items = np.bincount(train.items, train.values - mean - users[train.users], n_items) / item_count
        users = np.bincount(train.users, train.values - mean - items[train.items], n_users) / user_count
    return Biases(mean, users, items)
