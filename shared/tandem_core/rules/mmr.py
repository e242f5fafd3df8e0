"""Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tandem_core.rules.base import Given, Order, Scores
from tandem_core.rules.similarity import Similarity, to_front, unit_rows

LOWEST = float(np.finfo(np.float32).min)  # of scores that are not finite: -inf marks the places already taken


@dataclass(frozen=True, slots=True)
class Mmr:
    """Fill slot by slot with the item of largest lambda * score - (1 - lambda) * highest cosine to those before.

    lambda_relevance: 1 changes nothing, 0 is diversity alone. pool_size: candidates looked at, best first; those not
    chosen follow in their order. similarity: what two items are compared by.
    """

    lambda_relevance: float
    pool_size: int
    similarity: Similarity = "vectors"

    def __call__(self, order: Order, scores: Scores, given: Given) -> tuple[Order, Scores]:
        pool = min(self.pool_size, len(order))
        if self.lambda_relevance >= 1 or pool < 2:
            return order, scores
        looked_at = order[:pool]
        vectors = unit_rows(given, looked_at, self.similarity)
        best_scores = scores[looked_at].astype(np.float64)
        relevance = self.lambda_relevance * np.where(np.isfinite(best_scores), best_scores, LOWEST)
        weighed = (self.lambda_relevance - 1) * vectors  # its products are the penalties: no factor within the loop
        penalty, value = np.zeros(pool), np.empty(pool)  # of the most similar item chosen so far
        chosen = np.empty(min(given.request.slots, pool), np.intp)
        for slot in range(len(chosen)):
            best = int(np.add(relevance, penalty, out=value).argmax())  # the first of equals: the better score
            chosen[slot] = best
            relevance[best] = -np.inf
            against = weighed @ vectors[best]
            penalty = against.astype(np.float64) if slot == 0 else np.minimum(penalty, against, out=penalty)
        return to_front(order, chosen), scores
