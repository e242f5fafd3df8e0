"""Rules for users and items the models know too little of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tandem_core.query import Regime
from tandem_core.rules.base import Given, Scores


@dataclass(frozen=True, slots=True)
class PopularityBlend:
    """Blend what is popular with users like this one into the score: (1 - weight) * score + weight * popularity.

    weight_of: regime -> weight in [0, 1]; for users with few events, whose ranker score is mostly guessed. Reads what
    the segment's source said of the candidates, or else popularity with everybody.
    """

    weight_of: Mapping[Regime, float]

    def __call__(self, scores: Scores, given: Given) -> Scores:
        weight = self.weight_of[given.request.regime]
        if not weight:
            return scores
        segment = "score:popularity_segment"
        popularity = given.column(segment if given.has(segment) else "popularity")
        return ((1 - weight) * scores + weight * popularity).astype(np.float32)


@dataclass(frozen=True, slots=True)
class ColdItemScore:
    """Give cold items the mean score of their `neighbours` nearest warm candidates by content.

    An item with fewer than `cold_events` training events has no behaviour to be scored by. Never lowers a score; an
    item like no warm candidate (cosine at most 0) keeps its own.
    """

    cold_events: int
    neighbours: int

    def __call__(self, scores: Scores, given: Given) -> Scores:
        cold = given.column("events") < self.cold_events
        if not cold.any() or cold.all():
            return scores
        alike = given.column("content", cold) @ given.column("content", ~cold).T  # [cold, warm]
        count = min(self.neighbours, alike.shape[1])
        nearest = np.empty((len(alike), count), np.intp)
        weights = np.empty((len(alike), count), np.float32)
        every = np.arange(len(alike))
        for place in range(count):  # a few passes over the rows cost a fifth of sorting them in part
            nearest[:, place] = best = alike.argmax(axis=1)
            weights[:, place] = np.maximum(alike[every, best], 0)
            alike[every, best] = -2  # below every cosine
        borrowed = (weights * scores[~cold][nearest]).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9)
        raised = scores.copy()
        raised[cold] = np.maximum(scores[cold], borrowed)
        return raised
