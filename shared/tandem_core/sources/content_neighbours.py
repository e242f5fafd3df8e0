"""Items whose content is like that of the user's latest items, and the warm items that stand for a cold one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.features import History, User
from tandem_core.filters import Eligibility
from tandem_core.index.base import VectorIndex, top_k
from tandem_core.sources.base import Found, nearest


def content_profile(content: NDArray[np.float32], history: History, half_life: float) -> NDArray[np.float32] | None:
    """Return the direction of a history's content: float32 [T] of unit length, None where nothing is known.

    It is the mean of the items' content vectors, the n-th newest weighing .5 ** (n / half_life) times its own weight.
    content: float32 [N, T], rows of unit length or zero.
    """
    if not len(history):
        return None
    total = history.decayed(half_life) @ content[history.rows]
    length = float(np.linalg.norm(total))
    return (total / length).astype(np.float32) if length > 0 else None


@dataclass(frozen=True, slots=True)
class ContentNeighbours:
    """Score: cosine with the user's content profile, in [-1, 1]; items at 0 or below are not found.

    Knows users of whose history the content is known. index: over content vectors, float32 [N, T].
    """

    index: VectorIndex
    half_life: float

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        profile = content_profile(self.index.vectors, user.history, self.half_life)
        if profile is None:
            return Found()
        found = nearest(self.index, profile, eligible, limit)
        alike = found.scores > 0
        return Found(found.rows[alike], found.scores[alike], found.score_rows)


@dataclass(frozen=True, slots=True)
class ColdContentNeighbours:
    """As ContentNeighbours, among cold items alone: behaviour would never bring them in.

    Compares with every cold item. content: float32 [N, T]. cold_rows: int32, rising.
    """

    content: NDArray[np.float32]
    cold_rows: NDArray[np.int32]
    half_life: float

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        profile = content_profile(self.content, user.history, self.half_life)
        if profile is None:
            return Found()

        def score_rows(rows: NDArray[np.int32]) -> NDArray[np.float32]:
            return self.content.take(rows, axis=0) @ profile

        rows = self.cold_rows[eligible.keep(self.cold_rows)]
        rows, scores = top_k(score_rows(rows), rows, limit)
        return Found(rows[scores > 0], scores[scores > 0], score_rows)
