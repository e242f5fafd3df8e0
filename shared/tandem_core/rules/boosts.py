"""Boosts and buries: items that fulfil a condition stand higher or lower."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tandem_core.filters import Condition
from tandem_core.rules.base import Given, Scores, scaled
from tandem_core.rules.when import ALWAYS, When


@dataclass(frozen=True, slots=True)
class Boost:
    """Score of items that fulfil the condition: times `factor` (below 1 buries), then plus `add` (below 0 buries)."""

    condition: Condition
    factor: float = 1.0
    add: float = 0.0
    when: When = ALWAYS

    def __call__(self, scores: Scores, given: Given) -> Scores:
        if not self.when.holds(given.request):
            return scores
        chosen = self.condition.mask(given.items.catalog, given.batch.rows)
        return np.where(chosen, scaled(scores, self.factor) + np.float32(self.add), scores)
