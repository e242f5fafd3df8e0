"""Candidates from the clusters of items that lie nearest to the average of what the user chose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.clusters import Clusters
from tandem_core.features import User
from tandem_core.filters import Eligibility
from tandem_core.sources.base import Found
from tandem_core.sources.weighted_average import average_vector

ALL_ITEMS = -1


@dataclass(frozen=True, slots=True)
class ClusterSource:
    """Eligible items of the nearest clusters; when they are too few those of the next one follow, and so on.

    A short list of the same user is the beginning of a longer one, and none is short while eligible items exist,
    however small or empty clusters are. Score: in (0, 1], falling by place, since items of different clusters do not
    compare. Knows users with a history.

    item_vectors: float32 [N, D], unit length. popularity: float32 [N] to rank by it within the clusters; None ranks by
    the dot product with the user's average vector. probes: clusters that count as one, 1 or more; ALL_ITEMS compares
    the whole catalogue. blend: of a mixture, rank all items by log posterior of their component plus the log of
    similarity or popularity, instead of one component after the other.
    """

    clusters: Clusters
    item_vectors: NDArray[np.float32]
    popularity: NDArray[np.float32] | None = None
    probes: int = 1
    blend: bool = False

    def __post_init__(self) -> None:
        n = len(self.clusters.labels)
        if len(self.item_vectors) != n or self.item_vectors.shape[1] != self.clusters.centres.shape[1]:
            raise ValueError(
                f"clusters of {n} items of length {self.clusters.centres.shape[1]} for vectors of shape "
                f"{self.item_vectors.shape}: fit them on these vectors"
            )
        if self.popularity is not None and len(self.popularity) != n:
            raise ValueError(f"popularity of {len(self.popularity)} items for {n}: pass one number per item")
        if self.probes < 1 and self.probes != ALL_ITEMS:
            raise ValueError(f"probes is {self.probes}: 1 or more clusters, or {ALL_ITEMS} for all items")
        if self.blend and self.clusters.mixture is None:
            raise ValueError("K-means has no posterior to blend: use a mixture, or blend = False")

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        vector = average_vector(user.history.rows, user.history.weights, self.item_vectors)
        if vector is None:
            return Found()
        if self.blend or self.probes == ALL_ITEMS:
            rows = eligible.matching_rows()
            tier = np.zeros(len(rows), np.intp)
        else:
            rows, tier = self._enough(self.clusters.nearest(vector), eligible, limit)
        scores = self._within(rows, vector)
        best = np.lexsort((rows, -scores, tier))[:limit]
        return Found(rows[best], (1 - np.arange(len(best)) / max(len(best), 1)).astype(np.float32))

    def _enough(
        self, order: NDArray[np.intp], eligible: Eligibility, limit: int
    ) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
        """Return eligible rows of the nearest clusters, at least `limit` where there are as many, and their tier."""
        held = np.cumsum(self.clusters.sizes[order])
        looked = max(self.probes, int(np.searchsorted(held, limit)) + 1)
        while True:
            rows, place = self.clusters.members(order[:looked])
            kept = eligible.keep(rows)
            if looked >= len(order) or np.count_nonzero(kept) >= limit:
                return rows[kept], np.maximum(place[kept] - (self.probes - 1), 0)
            looked *= 2

    def _within(self, rows: NDArray[np.int32], vector: NDArray[np.float32]) -> NDArray[np.floating]:
        """Return float [n], what rows of equal tier are ranked by."""
        scores = self.item_vectors[rows] @ vector if self.popularity is None else self.popularity[rows]
        if not self.blend:
            return scores
        positive = (1 + scores) / 2 if self.popularity is None else scores
        # Logarithms: posteriors in many dimensions are so sharp that all but one would round to 0 and tie.
        return self.clusters.log_posterior(vector)[self.clusters.labels[rows]] + np.log(np.maximum(positive, 1e-12))
