"""Inverted lists: the vectors of the K-means clusters nearest to the query are compared, the others are not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.clusters import Clusters
from tandem_core.index.base import Rows, Scores, top_k


@dataclass(frozen=True, slots=True)
class IvfIndex:
    """Compares C centres, then the members of the `probes` nearest clusters (Jégou, Douze, Schmid, PAMI 2011).

    vectors: float32 [N, D], unit length: only then is the nearest centre's cluster the likely home of the largest
    inner products. probes: 1 to C; more find more. Small clusters are followed by further ones until k rows are there.
    """

    vectors: NDArray[np.float32]
    clusters: Clusters
    probes: int

    def __post_init__(self) -> None:
        if len(self.clusters.labels) != len(self.vectors) or not 1 <= self.probes <= len(self.clusters):
            raise ValueError(
                f"{len(self.clusters)} clusters of {len(self.clusters.labels)} items, {len(self.vectors)} vectors, "
                f"probes {self.probes}: fit the clusters on these vectors, and probe 1 to all of them"
            )

    def search(self, query: NDArray[np.float32], k: int) -> tuple[Rows, Scores]:
        rows = self.compared(query, k)
        return top_k(self.vectors[rows] @ query, rows, k)

    def compared(self, query: NDArray[np.float32], k: int) -> Rows:
        """Return the rows that a search compares with the query."""
        order = self.clusters.nearest(query)
        enough = int(np.searchsorted(np.cumsum(self.clusters.sizes[order]), k)) + 1
        return self.clusters.members(order[: max(self.probes, enough)])[0]
