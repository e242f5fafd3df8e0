"""Scores to a known scale, so that the weights of later rules mean the same for every scorer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tandem_core.candidates import CandidateBatch
from tandem_core.rules.base import Outcome


@dataclass(frozen=True, slots=True)
class Normalise:
    """Map finite scores linearly to [0, 1] within the request; NaN and infinite ones become 0. One value gives 1."""

    def __call__(self, batch: CandidateBatch, slots: int) -> Outcome:
        finite = np.isfinite(batch.scores)
        if not finite.any():
            return Outcome(batch.with_scores(np.zeros(len(batch), np.float32)))
        scores = batch.scores.astype(np.float64)  # the range of float32 scores need not fit into a float32
        low, high = scores[finite].min(), scores[finite].max()
        known = np.where(finite, scores, low)
        scaled = (known - low) / (high - low) if high > low else np.ones(len(batch), np.float32)
        return Outcome(batch.with_scores(np.where(finite, scaled, 0)))
