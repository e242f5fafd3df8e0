"""Filling the top of a list slot by slot with whatever is worth most beside what stands there already."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tandem_core.rules.base import Order, Scores

_LOWEST = float(np.finfo(np.float32).min)  # of scores that are not finite: -inf marks the places already taken


def relevance_of(scores: Scores, weight: float) -> NDArray[np.float64]:
    """Return float64 [m], weight * score; scores that are not finite stand for the lowest there is."""
    wide = scores.astype(np.float64)
    return weight * np.where(np.isfinite(wide), wide, _LOWEST)


def greedy(
    order: Order,
    relevance: NDArray[np.float64],
    slots: int,
    bonus: NDArray[np.float64],
    after: Callable[[int, int], NDArray[np.float64]],
    *,
    kept: int = 0,
) -> Order:
    """Return the order with the items chosen for min(slots, m) slots in front, the others after them as they stood.

    relevance: float64 [m], of the first m places of the order, 1 or more; changed here. bonus: float64 [m], what each
    is worth beside it in the first slot. after: slot and the place chosen for it -> bonus for the next slot. kept:
    slots that go by relevance alone; what stands there counts for those after it.
    """
    chosen = np.empty(min(slots, len(relevance)), np.intp)
    value = np.empty(len(relevance))
    best = -1
    for slot in range(len(chosen)):
        if slot:
            bonus = after(slot - 1, best)
        np.add(relevance, bonus if slot >= kept else 0, out=value)
        chosen[slot] = best = int(value.argmax())  # the first of equals: the better score
        relevance[best] = -np.inf
    left = np.ones(len(order), np.bool_)
    left[chosen] = False
    return np.concatenate([order[chosen], order[left]])
