"""What every vector index does."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tandem_core.candidates import order

Rows = NDArray[np.int32]
Scores = NDArray[np.float32]


class VectorIndex(Protocol):
    """Finds the rows whose vectors have the largest inner product with a query vector."""

    @property
    def vectors(self) -> NDArray[np.float32]:
        """float32 [N, D], by catalogue row."""
        ...

    def search(self, query: NDArray[np.float32], k: int) -> tuple[Rows, Scores]:
        """Return up to k rows (int32) and inner products (float32), best first. query: float32 [D]."""
        ...


def top_k(scores: NDArray[Any], rows: Rows, k: int) -> tuple[Rows, Scores]:
    """Return the k best of (rows, scores), best first, ties to the smaller row."""
    if 0 < k < len(rows):
        known = np.where(np.isfinite(scores), scores, -np.inf)
        lowest = np.partition(known, len(known) - k)[len(known) - k]
        best = np.flatnonzero(known >= lowest)  # with all that tie for the last place: `order` settles who gets it
        rows, scores = rows[best], scores[best]
    by_score = order(scores, rows)[:k]
    return rows[by_score], scores[by_score].astype(np.float32, copy=False)
