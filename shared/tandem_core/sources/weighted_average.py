"""Candidates near the average of what the user chose: needs no model of users, so no user is unseen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.features import User
from tandem_core.filters import Eligibility
from tandem_core.index.base import VectorIndex
from tandem_core.sources.base import Found, nearest


def average_vector(
    rows: NDArray[np.integer], weights: NDArray[np.floating], item_vectors: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """Return sum(w * e) / sum(w) at unit length, float32 [D]; None where nothing is known or all cancels out.

    rows: int [h], item_vectors: float32 [N, D], unit length. weights: float [h], ratings or event weights. Where they
    add up to 0 or less (all rated 0) they say nothing, and the items count alike. At unit length the Euclidean
    distance to an item orders items as the cosine does, which is what the towers were trained on.
    """
    if not len(rows):
        return None
    total = float(weights.sum())  # a NaN among them fails the comparison, too
    mean = weights @ item_vectors[rows] / total if total > 0 else item_vectors[rows].mean(axis=0)
    length = float(np.linalg.norm(mean))
    return (mean / length).astype(np.float32) if length > 1e-12 else None


@dataclass(frozen=True, slots=True)
class WeightedAverage:
    """The items nearest to the weighted average of the history. Score: cosine, in [-1, 1]. Knows who has a history."""

    index: VectorIndex

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        vector = average_vector(user.history.rows, user.history.weights, self.index.vectors)
        return Found() if vector is None else nearest(self.index, vector, eligible, limit)
