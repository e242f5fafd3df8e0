"""Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tandem_core.candidates import CandidateBatch
from tandem_core.rules.base import Outcome

LOWEST = float(np.finfo(np.float32).min)  # of scores that are not finite: -inf marks the places already taken


@dataclass(frozen=True, slots=True)
class Mmr:
    """Fill slot by slot with the item of largest lambda * score - (1 - lambda) * highest cosine to those before.

    lambda_relevance: 1 changes nothing, 0 is diversity alone. pool_size: candidates looked at, best first; those not
    chosen follow in their order. Expects the batch best first. Needs column vectors: float [n, D] of unit rows.
    """

    lambda_relevance: float
    pool_size: int

    def __call__(self, batch: CandidateBatch, slots: int) -> Outcome:
        pool = min(self.pool_size, len(batch))
        if self.lambda_relevance >= 1 or pool < 2:
            return Outcome(batch)
        vectors = batch.columns["vectors"][:pool]
        scores = batch.scores[:pool].astype(np.float64)
        relevance = self.lambda_relevance * np.where(np.isfinite(scores), scores, LOWEST)
        highest = np.full(pool, -1.0)  # cosine to the most similar item chosen so far
        open_ = np.ones(pool, np.bool_)
        chosen = np.empty(min(slots, pool), np.intp)
        for slot in range(len(chosen)):
            value = relevance - (1 - self.lambda_relevance) * (highest if slot else 0)
            best = int(np.argmax(np.where(open_, value, -np.inf)))  # the first of equals: the better score
            chosen[slot] = best
            open_[best] = False
            np.maximum(highest, vectors @ vectors[best], out=highest)
        rest = np.setdiff1d(np.arange(len(batch)), chosen, assume_unique=True)
        return Outcome(batch.take(np.concatenate([chosen, rest])))
