"""Scores to a known scale, so that the weights of later rules mean the same for every scorer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tandem_core.rules.base import Given, Scores


@dataclass(frozen=True, slots=True)
class Normalise:
    """Map finite scores linearly to [0, 1] within the request; NaN and infinite ones become 0. One value gives 1."""

    def __call__(self, scores: Scores, given: Given) -> Scores:
        finite = np.isfinite(scores)
        if not finite.any():
            return np.zeros(len(scores), np.float32)
        wide = scores.astype(np.float64)  # the range of float32 scores need not fit into a float32
        low, high = wide.min(where=finite, initial=np.inf), wide.max(where=finite, initial=-np.inf)
        known = np.where(finite, wide, low)
        scaled = (known - low) / (high - low) if high > low else np.ones(len(scores), np.float32)
        return np.where(finite, scaled, 0).astype(np.float32)
