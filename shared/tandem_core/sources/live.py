"""Items that came after training: the nearest to the user by exact search, or the newest for users unknown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.features import User
from tandem_core.filters import Eligibility
from tandem_core.index.base import top_k
from tandem_core.sources.base import Found
from tandem_core.sources.two_tower import TwoTower

LIVE = "live"
_BLOCK = 64
Rows = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class LiveItems:
    """Live items alone. Score: cosine of user and item vector, as two_tower's; by place from 1 down for users of whom
    nothing is known, newest first. Knows every user. Finds nothing before the first item was added.

    item_vectors: float32 [N, D], the live items from row `first` on. newest: their rows, int32, the latest first.
    tower: None in a service that only ranks.
    """

    item_vectors: NDArray[np.float32] | None = None
    first: int = 0
    newest: Rows | None = None
    tower: TwoTower | None = None

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        if self.item_vectors is None or self.newest is None:
            return Found()
        vector = None if self.tower is None else self.tower.vector(user)
        if vector is not None:
            return self.nearest(vector, eligible, limit)
        rows = self.newest[eligible.keep(self.newest)][:limit]
        return Found(rows, (1 - np.arange(len(rows)) / max(len(rows), 1)).astype(np.float32))

    def nearest(self, vector: NDArray[np.float32], eligible: Eligibility, limit: int) -> Found:
        """Return the eligible live items with the largest inner product with float32 [D].

        It scores no other rows: two_tower, which gives the same scores, does that.
        """
        if self.item_vectors is None:
            return Found()
        scores = self.item_vectors[self.first :] @ vector
        for asked in (2 * limit + eligible.spare(limit), len(scores)):
            places = _among_best(scores, asked)
            kept = places[eligible.keep(places + np.int32(self.first))]
            if len(kept) >= limit or asked >= len(scores):
                break
        places, best = top_k(scores[kept], kept, limit)
        return Found(places + np.int32(self.first), best)


def _among_best(scores: NDArray[np.float32], k: int) -> Rows:
    """Return places, rising: the k largest are among them, and few others.

    The k-th largest of the blocks' maxima is no larger than the k-th largest of all: no need to sort all of them.
    """
    blocks = len(scores) // _BLOCK
    if k >= blocks:
        return np.arange(len(scores), dtype=np.int32)
    highest = scores[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
    lowest = np.partition(highest, blocks - k)[blocks - k]
    return np.flatnonzero(scores >= lowest).astype(np.int32)
