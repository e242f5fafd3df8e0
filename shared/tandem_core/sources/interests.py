"""Candidates near several vectors of one user: a taste of its own for each kind of thing that the user chose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.features import User
from tandem_core.filters import Eligibility
from tandem_core.index.base import VectorIndex, top_k
from tandem_core.sources.base import Found, nearest

_NEWEST = 100  # events that are grouped: the cost grows with their square, and older ones have faded


def medoids(vectors: NDArray[np.float32], weights: NDArray[np.floating], most: int, alike: float) -> NDArray[np.intp]:
    """Return places of at most `most` events that stand for the others, the most important first.

    Greedy maximum coverage (Nemhauser, Wolsey, Fisher 1978): each time the event is taken whose like ones, among those
    that none stands for yet, weigh most together; ties go to the earlier place. Events of cosine `alike` or more are
    like each other, so that no two of those taken are. A stray event is taken last, where farthest-first would begin.

    vectors: float32 [h, D], unit length. weights: float [h], 0 or more.
    """
    near = vectors @ vectors.T >= alike
    np.fill_diagonal(near, val=True)  # rounding must not keep an event from standing for itself
    left = np.ones(len(vectors), np.bool_)
    taken: list[int] = []
    while len(taken) < most and left.any():
        gains = np.where(left, near @ np.where(left, weights, 0), -1)
        taken.append(int(gains.argmax()))
        left &= ~near[taken[-1]]
    return np.array(taken, np.intp)


@dataclass(frozen=True, slots=True)
class Interests:
    """The items nearest to any of the user's interests, which are items that the user chose: medoids, as in PinnerSage
    (Pal et al., KDD 2020), found anew for each request. Score: the largest cosine with one of them, in [-1, 1],
    whatever the interest weighs (Cen et al., KDD 2020): the weights, faded by recency, only choose the interests.
    Knows who has a history.

    Asks the index once per interest, each time for the whole limit: what is among the best of all is among the best of
    one. most: interests, 1 or more. alike: cosine from which two items are of one interest. half_life: in events.
    """

    index: VectorIndex
    most: int = 3
    alike: float = 0.5
    half_life: float = 25.0

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"most is {self.most}: 1 or more interests")
        if not self.half_life > 0:
            raise ValueError(f"half_life is {self.half_life}: more than 0 events")

    def vectors(self, user: User) -> NDArray[np.float32]:
        """Return the interests, float32 [i, D] of unit length, the most important first; none without a history."""
        history = user.history.newest(_NEWEST)
        chosen = self.index.vectors[history.rows]
        return chosen[medoids(chosen, history.decayed(self.half_life), self.most, self.alike)]

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        interests = self.vectors(user)
        if not len(interests):
            return Found()

        def score_rows(rows: NDArray[np.int32]) -> NDArray[np.float32]:
            scores: NDArray[np.float32] = (self.index.vectors.take(rows, axis=0) @ interests.T).max(axis=1)
            return scores

        rows = np.unique(np.concatenate([nearest(self.index, each, eligible, limit).rows for each in interests]))
        return Found(*top_k(score_rows(rows), rows, limit), score_rows)
