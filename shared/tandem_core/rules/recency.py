"""Newer items first, a little."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tandem_core.rules.base import Given, Scores

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Recency:
    """Add weight * .5 ** (age / half_life_days) to the score; items of unknown age get nothing."""

    weight: float
    half_life_days: float

    def __call__(self, scores: Scores, given: Given) -> Scores:
        age = np.maximum(given.age_s, 0)
        bonus = self.weight * np.exp2(-age / (self.half_life_days * DAY_S))
        return (scores + np.nan_to_num(bonus)).astype(np.float32)
