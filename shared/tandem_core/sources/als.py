"""Candidates by implicit-feedback matrix factorisation, the user folded in from the history at request time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tandem_core.features import User
from tandem_core.filters import Eligibility
from tandem_core.index.base import VectorIndex
from tandem_core.sources.base import Found, nearest


@dataclass(frozen=True, slots=True)
class Als:
    """Weighted ALS (Hu, Koren, Volinsky 2008). Score: predicted preference, about 0 to 1.

    index: over item factors Y, float32 [N, F]. alpha: confidence per unit of weight. regularization: as trained.
    half_life: in events; the n-th newest event weighs .5 ** (n / half_life), so that the factor follows what the user
    does now instead of what training saw.
    """

    index: VectorIndex
    alpha: float
    regularization: float
    half_life: float
    _gram: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        factors = self.index.vectors
        gram = factors.T @ factors + self.regularization * np.eye(factors.shape[1], dtype=np.float32)
        object.__setattr__(self, "_gram", gram)

    def fold_in(self, rows: NDArray[np.int32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the factor [F] of a user with these events: (Y'Y + Y'(C - I)Y + rI) x = Y'C 1, C = alpha * weights.

        Weights of one item add up, as in training. An item whose weight has faded away says nothing any more: with
        C near 0 it is left out even of the unseen items, which count as weakly disliked.
        """
        items, place = np.unique(rows, return_inverse=True)
        factors = self.index.vectors[items]
        confidence = self.alpha * np.bincount(place, weights).astype(np.float32)
        left = self._gram + (factors.T * (confidence - 1)) @ factors
        return np.linalg.solve(left, factors.T @ confidence).astype(np.float32)

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        if not len(user.history):
            return Found()
        factor = self.fold_in(user.history.rows, user.history.decayed(self.half_life))
        return nearest(self.index, factor, eligible, limit)
