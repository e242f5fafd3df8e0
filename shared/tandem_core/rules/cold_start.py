"""Rules for users and items the models know too little of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tandem_core.candidates import CandidateBatch
from tandem_core.rules.base import Outcome


@dataclass(frozen=True, slots=True)
class PopularityBlend:
    """Blend what is popular with users like this one into the score: (1 - weight) * score + weight * popularity.

    Needs column popularity: float [n] in [0, 1]. For users with few events, whose ranker score is mostly guessed.
    """

    weight: float

    def __call__(self, batch: CandidateBatch, slots: int) -> Outcome:
        return Outcome(batch.with_scores((1 - self.weight) * batch.scores + self.weight * batch.columns["popularity"]))


@dataclass(frozen=True, slots=True)
class ColdItemScore:
    """Give cold items the mean score of their `neighbours` nearest warm candidates by content.

    An item with fewer than `cold_events` training events has no behaviour to be scored by. Never lowers a score; an
    item like no warm candidate (cosine at most 0) keeps its own. Needs columns events: int [n], content: float [n, T]
    of unit rows.
    """

    cold_events: int
    neighbours: int

    def __call__(self, batch: CandidateBatch, slots: int) -> Outcome:
        cold = batch.columns["events"] < self.cold_events
        if not cold.any() or cold.all():
            return Outcome(batch)
        content = batch.columns["content"]
        alike = content[cold] @ content[~cold].T  # [cold, warm]
        count = min(self.neighbours, alike.shape[1])
        nearest = np.argpartition(-alike, count - 1, axis=1)[:, :count]
        weights = np.maximum(np.take_along_axis(alike, nearest, axis=1), 0)
        borrowed = (weights * batch.scores[~cold][nearest]).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9)
        scores = batch.scores.copy()
        scores[cold] = np.maximum(scores[cold], borrowed)
        return Outcome(batch.with_scores(scores))
