"""Exact search: one matrix product. Faster than HNSW below some 25,000 items of 64 dimensions."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tandem_core.index.base import Rows, Scores, top_k


@dataclass(frozen=True, slots=True)
class ExactIndex:
    """All vectors, compared one by one. vectors: float32 [N, D]."""

    vectors: NDArray[np.float32]
    _rows: Rows = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rows", np.arange(len(self.vectors), dtype=np.int32))

    def search(self, query: NDArray[np.float32], k: int) -> tuple[Rows, Scores]:
        return top_k(self.vectors @ query, self._rows, k)
