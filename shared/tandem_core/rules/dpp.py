"""Determinantal point process: greedy MAP inference (Chen, Zhang and Zhou, NeurIPS 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.rules.base import Given, Order, Scores
from tandem_core.rules.greedy import greedy, relevance_of
from tandem_core.rules.similarity import Similarity, unit_rows

RIDGE = 0.01  # part of each item that is like no other: equal items keep a volume, and the list can always be filled


@dataclass(frozen=True, slots=True)
class Dpp:
    """Fill slot by slot with the item of largest theta * score + (1 - theta) * log(volume it adds).

    The volume is that of the chosen items' similarity matrix, .99 of their cosines; it shrinks with all items chosen
    before, not with the nearest alone as in MMR. theta: 1 changes nothing, 0 is diversity alone. pool_size: candidates
    looked at, best first; those not chosen follow in their order. kept: slots at the top that go by score alone.
    """

    theta: float
    pool_size: int
    similarity: Similarity = "vectors"
    kept: int = 0

    def __call__(self, order: Order, scores: Scores, given: Given) -> tuple[Order, Scores]:
        pool = min(self.pool_size, len(order))
        if self.theta >= 1 or pool < 2:
            return order, scores
        looked_at = order[:pool]
        vectors = unit_rows(given, looked_at, self.similarity)
        cholesky = np.empty((pool, min(given.request.slots, pool)))  # row i: item i in terms of the items chosen
        volume = np.ones(pool)  # squared length of what the items chosen leave of each
        bonus = np.zeros(pool)

        def after(slot: int, best: int) -> NDArray[np.float64]:
            alike = (1 - RIDGE) * (vectors @ vectors[best])
            alike = (alike - cholesky[:, :slot] @ cholesky[best, :slot]) / np.sqrt(volume[best])
            cholesky[:, slot] = alike
            np.subtract(volume, alike * alike, out=volume)
            np.maximum(volume, 1e-9, out=volume)  # of the item itself: it has been chosen
            np.log(volume, out=bonus)
            np.multiply(bonus, 1 - self.theta, out=bonus)
            return bonus

        relevance = relevance_of(scores[looked_at], self.theta)
        return greedy(order, relevance, given.request.slots, bonus, after, kept=self.kept), scores
