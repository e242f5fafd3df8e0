"""Calibrated lists (Steck, RecSys 2018): categories in the shares that the user's history has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.rules.base import Array, Given, Order, Scores
from tandem_core.rules.greedy import greedy, relevance_of

SMOOTHING = 0.01  # share of the history's distribution in the list's: the divergence stays finite (as in the paper)


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Fill slot by slot with the item of largest (1 - weight) * score - weight * divergence of the list that results.

    The divergence is Kullback-Leibler's, of the list's shares of categories from those of the user's history; an item
    counts in equal parts for each of its categories. weight: 0 changes nothing, 1 is calibration alone. pool_size:
    candidates looked at, best first; those not chosen follow in their order. kept: slots
    at the top that go by score alone. Without a history nothing changes.
    """

    weight: float
    pool_size: int
    kept: int = 0

    def __call__(self, order: Order, scores: Scores, given: Given) -> tuple[Order, Scores]:
        history = given.request.history
        pool = min(self.pool_size, len(order))
        if self.weight <= 0 or pool < 2 or not len(history):
            return order, scores
        codes = given.items.tables["codes:categories"]
        present, wanted = _shares(codes[history.rows], history.weights)
        if not len(present):
            return order, scores
        looked_at = order[:pool]
        mine = _parts(given.column("codes:categories", looked_at), present)  # [pool, C]
        total = np.zeros(len(present))

        def bonus(slot: int) -> NDArray[np.float64]:
            shares = (total + mine) * ((1 - SMOOTHING) / (slot + 1)) + SMOOTHING * wanted
            # The history's own entropy is the same for all: it is left out.
            return np.asarray(self.weight * (np.log(shares) @ wanted), np.float64)

        def after(slot: int, best: int) -> NDArray[np.float64]:
            np.add(total, mine[best], out=total)
            return bonus(slot + 1)

        relevance = relevance_of(scores[looked_at], 1 - self.weight)
        return greedy(order, relevance, given.request.slots, bonus(0), after, kept=self.kept), scores


def _shares(codes: Array, weights: NDArray[np.float32]) -> tuple[Array, NDArray[np.float64]]:
    """Return the categories of a history, rising, and float64 [C], their shares of its weight, summing to 1."""
    known = codes >= 0
    each = np.where(known, weights[:, None] / np.maximum(known.sum(axis=1, keepdims=True), 1), 0)
    present, dense = np.unique(codes[known], return_inverse=True)
    shares = np.bincount(dense, each[known], minlength=len(present)).astype(np.float64)
    return present, shares / max(float(shares.sum()), 1e-12)


def _parts(codes: Array, present: Array) -> NDArray[np.float64]:
    """Return float64 [n, C]: of each item's categories, in equal parts, those that are in `present`."""
    known = codes >= 0
    place = np.searchsorted(present, codes)
    place[place == len(present)] = 0
    inside = known & (present[place] == codes)
    parts = np.zeros((len(codes), len(present)))
    item, which = np.nonzero(inside)
    np.add.at(parts, (item, place[item, which]), 1 / known.sum(axis=1)[item])
    return parts
