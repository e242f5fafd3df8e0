"""Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.rules.base import Given, Order, Scores
from tandem_core.rules.greedy import greedy, relevance_of
from tandem_core.rules.similarity import Similarity, unit_rows


@dataclass(frozen=True, slots=True)
class Mmr:
    """Fill slot by slot with the item of largest lambda * score - (1 - lambda) * highest cosine to those before.

    lambda_relevance: 1 changes nothing, 0 is diversity alone. pool_size: candidates looked at, best first; those not
    chosen follow in their order. similarity: what two items are compared by. kept: slots at the top that go by score
    alone; what stands there counts for those after it.
    """

    lambda_relevance: float
    pool_size: int
    similarity: Similarity = "vectors"
    kept: int = 0

    def __call__(self, order: Order, scores: Scores, given: Given) -> tuple[Order, Scores]:
        pool = min(self.pool_size, len(order))
        if self.lambda_relevance >= 1 or pool < 2:
            return order, scores
        looked_at = order[:pool]
        vectors = unit_rows(given, looked_at, self.similarity)
        weighed = (self.lambda_relevance - 1) * vectors  # its products are the penalties: no factor within the loop
        penalty = np.zeros(pool)  # of the most similar item chosen so far

        def after(slot: int, best: int) -> NDArray[np.float64]:
            against = weighed @ vectors[best]
            # The first one alone: below 0 there is a bonus for items that are unlike it.
            np.minimum(penalty if slot else np.inf, against, out=penalty)
            return penalty

        relevance = relevance_of(scores[looked_at], self.lambda_relevance)
        return greedy(order, relevance, given.request.slots, penalty, after, kept=self.kept), scores
