"""Newer items first, a little."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tandem_core.candidates import CandidateBatch
from tandem_core.rules.base import Outcome


@dataclass(frozen=True, slots=True)
class Recency:
    """Add weight * .5 ** (age / half_life_days) to the score; items of unknown age get nothing.

    Needs column age_days: float [n], days, NaN where unknown.
    """

    weight: float
    half_life_days: float

    def __call__(self, batch: CandidateBatch, slots: int) -> Outcome:
        age = np.maximum(batch.columns["age_days"], 0)
        bonus = self.weight * np.exp2(-age / self.half_life_days)
        return Outcome(batch.with_scores(batch.scores + np.where(np.isfinite(bonus), bonus, 0)))
