"""Lower scores for more of the same creator or category."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tandem_core.rules.base import Given, Order, Scores, scaled
from tandem_core.rules.caps import place_in_group


@dataclass(frozen=True, slots=True)
class CreatorDecay:
    """Multiply an item's score by `factor` for each item of the same value of `column` that stands before it.

    Never below `floor` times its score. factor 1 changes nothing. Items without a value keep their scores.
    """

    column: str
    factor: float
    floor: float

    def __call__(self, order: Order, scores: Scores, given: Given) -> tuple[Order, Scores]:
        before = place_in_group(given.column(f"code:{self.column}")[order], without_group=False)
        most = int(before.max(initial=0))
        decays = np.maximum(np.power(float(self.factor), np.arange(most + 1)), self.floor)
        return _sorted_again(order, scores, scaled(scores[order], decays[before]))


@dataclass(frozen=True, slots=True)
class GroupPenalty:
    """Fill place by place with the item of largest score - weight * items of its group chosen before; ties: the first.

    An item's group is its first value of `column`; items without one are a group of their own. weight 0 changes
    nothing. Within a group the better scores come first, so an item's penalty is its place among them: no loop.
    """

    column: str
    weight: float

    def __call__(self, order: Order, scores: Scores, given: Given) -> tuple[Order, Scores]:
        before = place_in_group(given.column(f"code:{self.column}")[order], without_group=True)
        return _sorted_again(order, scores, (scores[order] - self.weight * before).astype(np.float32))


def _sorted_again(order: Order, scores: Scores, lowered: Scores) -> tuple[Order, Scores]:
    """Return order and scores by the lowered scores, float32 [n] in the old order; equal ones stay as they stood."""
    changed = scores.copy()
    changed[order] = lowered
    return order[np.argsort(-lowered, kind="stable")], changed
