"""What every candidate source does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tandem_core.features import User
from tandem_core.filters import Eligibility
from tandem_core.index.base import VectorIndex, top_k

_WIDER = 4

ScoreRows = Callable[[NDArray[np.int32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Found:
    """What one source found, best first. rows: int32 [n], none twice. scores: float32 [n], the source's own scale.

    score_rows: what the source says of any catalogue rows, int32 [m] -> float32 [m], for this user and on the same
    scale as `scores`; found or not, eligible or not. It keeps what `find` computed of the user, so that a score costs
    no second look at the history. None where the source can not say: it does not know the user, or orders by place.
    """

    rows: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    scores: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    score_rows: ScoreRows | None = None

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

    def score_rows(rows: NDArray[np.int32]) -> NDArray[np.float32]:
        return index.vectors.take(rows, axis=0) @ query  # half the time of vectors[rows]

    everything = len(index.vectors)
    asked = min(everything, limit + eligible.spare(limit))
    # Where many items are gone they may be neighbours: a wider search costs less than a look at the whole catalogue.
    for wider in (1, _WIDER) if eligible.some_gone else (1,):
        rows, scores = index.search(query, min(everything, asked * wider))
        kept = eligible.keep(rows)
        if np.count_nonzero(kept) >= limit or asked * wider >= everything:
            return Found(rows[kept][:limit], scores[kept][:limit], score_rows)
    matching = eligible.matching_rows()
    return Found(*top_k(score_rows(matching), matching, limit), score_rows)
