"""What every candidate source does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tandem_core.features import User
from tandem_core.filters import Eligibility
from tandem_core.index.base import VectorIndex, top_k


@dataclass(frozen=True, slots=True)
class Found:
    """What one source found, best first. rows: int32 [n], none twice. scores: float32 [n], the source's own scale."""

    rows: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    scores: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def __len__(self) -> int:
        return len(self.rows)


class Source(Protocol):
    """Finds items for a user. Pure: no clock, no randomness, no I/O."""

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        """Return at most `limit` eligible items, best first; nothing when the source does not know the user."""
        ...


def nearest(index: VectorIndex, query: NDArray[np.float32], eligible: Eligibility, limit: int) -> Found:
    """Search an index for eligible items.

    Asks for more than `limit`, drops what is not eligible, and compares exactly over all eligible rows where that
    leaves too few: a filter never makes the list short while matching items exist.
    """
    everything = len(index.vectors)
    spare = limit if eligible.has_condition else 0
    asked = min(everything, limit + spare + min(eligible.excluded_count, 2 * limit))
    rows, scores = index.search(query, asked)
    kept = eligible.keep(rows)
    if np.count_nonzero(kept) >= limit or asked == everything:
        return Found(rows[kept][:limit], scores[kept][:limit])
    matching = eligible.matching_rows()
    return Found(*top_k(index.vectors[matching] @ query, matching, limit))
