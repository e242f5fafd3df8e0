"""Several aims at once: the ranker's heads, weighed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tandem_core.rules.base import Given, Scores


@dataclass(frozen=True, slots=True)
class ValueWeights:
    """Score = sum of weight * column "head:<name>" (float [n]), in place of the ranker's own score.

    A head may count against an item: its weight is negative then. Where a head is missing, the scores stay as they
    are: some of the aims are not what the placement asked for.
    """

    weight_of: Mapping[str, float]

    def __call__(self, scores: Scores, given: Given) -> Scores:
        if self.missing(given):
            return scores
        values = sum(weight * given.column(f"head:{name}") for name, weight in self.weight_of.items())
        return np.asarray(values, np.float32)

    def missing(self, given: Given) -> list[str]:
        """Return the heads that the candidates have no scores of."""
        return [name for name in self.weight_of if not given.has(f"head:{name}")]
