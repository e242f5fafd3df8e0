"""Seen items, where they are to be shown lower instead of not at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tandem_core.query import Seen
from tandem_core.rules.base import Given, Scores, is_among, scaled


@dataclass(frozen=True, slots=True)
class SeenDiscount:
    """Multiply the scores of items the user had to do with by `factor` in [0, 1], where the request says DISCOUNT."""

    factor: float

    def __call__(self, scores: Scores, given: Given) -> Scores:
        request = given.request
        if request.seen is not Seen.DISCOUNT or not len(request.interacted):
            return scores
        return np.where(is_among(given.batch.rows, request.interacted), scaled(scores, self.factor), scores)
