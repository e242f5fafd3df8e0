"""Merging by learned weights: what each source says of every candidate, on one scale, summed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.candidates import CandidateBatch, order
from tandem_core.merge import Gathered, Keep, best_of
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
    """All that the sources found. scores: source -> float32 [n] of how many standard deviations it puts each candidate
    above its mean over them; a source that is not asked about others than its own gives those its lowest.
    """

    gathered: Gathered
    scores: Mapping[str, NDArray[np.float32]]

    @property
    def rows(self) -> NDArray[np.int32]:
        """int32 [n], rising."""
        return self.gathered.rows

    @classmethod
    def of(cls, found: Mapping[str, Found]) -> Union:
        """found: source -> its list, at least one source."""
        gathered = Gathered.of(found)
        places = gathered.places_of()
        table = np.stack(
            [_of_all(each, gathered.known.get(name), places[name], len(gathered.rows)) for name, each in found.items()]
        )
        return cls(gathered, dict(zip(found, _standard(table), strict=True)))

    def sum(self, weights: Mapping[str, float]) -> NDArray[np.float32]:
        """Return float32 [n], the weighted sum over the sources that have a weight and answered."""
        total = np.zeros(len(self.rows), np.float32)
        for name, column in self.scores.items():
            if weight := weights.get(name, 0.0):
                total += np.float32(weight) * column
        return total


def blend(found: Mapping[str, Found], weights: BlendWeights, keep: Keep | None = None) -> CandidateBatch:
    """Merge by weighted sums of standardised scores (z-score fusion; Montague and Aslam, CIKM 2001).

    keep: chooses among the union; None keeps all. Returns it best first, ties to the smaller row, with columns
    rank:<source> and score:<source>: the first `weights.head` are the best by `top`, then come the others by `pool`;
    scores fall all the way.
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
    scores = scores - scores.min() + _GAP
    return union.gathered.batch(scores, best_of(union.rows, scores, keep))


def _of_all(each: Found, known: NDArray[np.float32] | None, slots: NDArray[np.intp], n: int) -> NDArray[np.float32]:
    if known is not None:
        return known
    scores = np.full(n, each.scores.min() if len(each) else 0.0, np.float32)
    scores[slots] = each.scores
    return scores


def _standard(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each row, float32 [n], with mean 0 and deviation 1; all 0 where its numbers do not differ."""
    apart = scores - scores.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.square(apart).mean(axis=1, keepdims=True))
    says = spread > _FLATTEST * np.maximum(1.0, np.abs(scores).max(axis=1, keepdims=True))
    return np.where(says, apart / np.where(says, spread, 1), np.float32(0))
