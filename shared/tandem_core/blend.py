"""Merging by learned weights: what each source says of every candidate, on one scale, summed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem_core.candidates import CandidateBatch, order
from tandem_core.merge import gather
from tandem_core.sources.base import Found

_GAP = 1e-3
_FLATTEST = 1e-6  # a source that says the same of all candidates says nothing


@dataclass(frozen=True, slots=True)
class BlendWeights:
    """Source -> weight, 0 or more, for two aims: `top` puts the first `head` candidates in order, `pool` the others.

    What makes the first ten good and what makes five hundred complete are not the same (measured).
    """

    top: Mapping[str, float]
    pool: Mapping[str, float]
    head: int

    def with_defaults(self, weights: Mapping[str, float]) -> BlendWeights:
        """Return these weights, and the given ones for sources of which nothing was learned."""
        return BlendWeights({**weights, **self.top}, {**weights, **self.pool}, self.head)


@dataclass(frozen=True, slots=True)
class Union:
    """All that the sources found. rows: int32 [n], rising. scores: source -> float32 [n] of how many standard
    deviations it puts each candidate above its mean over them; a source that is not asked about others than its own
    gives those its lowest. columns: as a `CandidateBatch` keeps them.
    """

    rows: NDArray[np.int32]
    scores: Mapping[str, NDArray[np.float32]]
    columns: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, found: Mapping[str, Found]) -> Union:
        """found: source -> its list, at least one source."""
        rows, places, columns = gather(found)
        said = {name: _of_all(each, columns[f"score:{name}"], places[name]) for name, each in found.items()}
        scores = {name: _standard(each) for name, each in said.items()}
        return cls(rows, scores, columns)

    def sum(self, weights: Mapping[str, float]) -> NDArray[np.float32]:
        """Return float32 [n], the weighted sum over the sources that have a weight and answered."""
        total = np.zeros(len(self.rows), np.float32)
        for name, column in self.scores.items():
            if weight := weights.get(name, 0.0):
                total += np.float32(weight) * column
        return total


def blend(found: Mapping[str, Found], weights: BlendWeights) -> CandidateBatch:
    """Merge by weighted sums of standardised scores (z-score fusion; Montague and Aslam, CIKM 2001).

    Returns the union, best first, ties to the smaller row, with columns rank:<source> and score:<source>: the first
    `weights.head` are the best by `top`, then come the others by `pool`; scores fall all the way.
    """
    if not any(len(each) for each in found.values()):
        return CandidateBatch(
            np.empty(0, np.int32),
            np.empty(0, np.float32),
            {f"{kind}:{name}": np.empty(0, t) for name in found for kind, t in (("rank", np.int32), ("score", "f4"))},
        )
    union = Union.of(found)
    top, scores = union.sum(weights.top), union.sum(weights.pool)
    head = order(top, union.rows)[: weights.head]
    others = np.delete(scores, head)
    # The head keeps its own distances, moved above the others.
    scores[head] = top[head] - top[head].min(initial=np.inf) + (others.max() + _GAP if len(others) else 0.0)
    # Above 0, so that what is filled up below can have falling scores, too.
    return CandidateBatch(union.rows, scores - scores.min() + _GAP, union.columns).best_first()


def _of_all(each: Found, known: NDArray[np.float32], slots: NDArray[np.intp]) -> NDArray[np.float32]:
    if each.score_rows is not None:
        return known
    scores = np.full(len(known), each.scores.min() if len(each) else 0.0, np.float32)
    scores[slots] = each.scores
    return scores


def _standard(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scores with mean 0 and deviation 1; all 0 where they do not differ."""
    spread = float(scores.std())
    if not spread > _FLATTEST * max(1.0, float(np.abs(scores).max())):
        return np.zeros_like(scores)
    return np.asarray((scores - scores.mean()) / spread, np.float32)
