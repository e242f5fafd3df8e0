"""Seen items, where they are to be shown lower instead of not at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tandem_core.candidates import CandidateBatch
from tandem_core.rules.base import Outcome


@dataclass(frozen=True, slots=True)
class SeenDiscount:
    """Multiply the scores of seen items by `factor` in [0, 1]. Needs column seen: bool [n]."""

    factor: float

    def __call__(self, batch: CandidateBatch, slots: int) -> Outcome:
        return Outcome(batch.with_scores(np.where(batch.columns["seen"], batch.scores * self.factor, batch.scores)))
