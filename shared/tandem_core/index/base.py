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
    if k < len(rows):
        best = np.argpartition(scores, len(scores) - k)[len(scores) - k :]
        rows, scores = rows[best], scores[best]
    by_score = order(scores, rows)
    return rows[by_score], scores[by_score].astype(np.float32, copy=False)
