"""Promoted items: certain slots of the list are theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.filters import Condition
from tandem_core.rules.base import Given, Mask, Order, is_among
from tandem_core.rules.slots import Placed
from tandem_core.rules.when import ALWAYS, When


@dataclass(frozen=True, slots=True)
class Promotion:
    """Give `slots` (0 is the top) to items in `rows` or fulfilling the condition, best first, while `when` holds."""

    name: str
    slots: frozenset[int]
    condition: Condition | None
    rows: NDArray[np.int32]
    when: When = ALWAYS

    def claim(self, given: Given) -> PromotionClaim | None:
        if not self.when.holds(given.request):
            return None
        promoted = is_among(given.batch.rows, self.rows)
        if self.condition is not None:
            promoted |= self.condition.mask(given.items.catalog, given.batch.rows)
        return PromotionClaim(self.name, self.slots, promoted)


@dataclass(frozen=True, slots=True)
class PromotionClaim:
    """A promotion in one list. promoted: bool [n]."""

    name: str
    slots: frozenset[int]
    promoted: Mask

    def choose(self, slot: int, free: Order) -> tuple[int, Placed, float]:
        among = self.promoted[free]
        first = int(among.argmax())
        return (int(free[first]) if among[first] else -1), Placed.PROMOTED, 0.0

    def missed(self, slots: Sequence[int]) -> str:
        return f"no promoted item for {len(slots)} of its slots"
