"""Choosing how vectors are searched: exact, or HNSW with a breadth that meets the least recall on real queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem_core.index.exact import ExactIndex
from tandem_core.index.hnsw import HnswIndex
from tandem_core.manifest import IndexInfo
from tandem_trainer.config import IndexSettings

RECALL_AT = 300
BREADTHS = (300, 400, 500, 600, 800, 1000, 1400, 2000, 3000)  # a search for k items is never narrower than k
STAND_INS = 500  # vectors of the catalogue that are asked where there is no real query
TIE = 1e-6  # scores nearer than this share of the best are equal: sums of floats in another order differ as much


class RecallTooLow(ValueError):  # noqa: N818
    """The index misses too many true neighbours to be published."""


def build_index(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], settings: IndexSettings, path: Path, seed: int
) -> IndexInfo:
    """Write an index over `vectors` to `path` (nothing for exact search) and return how to search it.

    queries: float32 [Q, D], vectors of real users, against which recall@300 is measured (of all items where there are
    fewer); where Q is 0, items of the catalogue are asked instead. Raises RecallTooLow when not even the widest search
    meets settings.min_recall.
    """
    depth = min(RECALL_AT, len(vectors))
    if len(vectors) < settings.exact_below:
        return IndexInfo(kind="exact", recall=1.0, recall_at=depth)
    if not len(queries):
        queries = vectors[:: -(-len(vectors) // STAND_INS)]
    index = HnswIndex.build(vectors, settings.m, settings.ef_construction, BREADTHS[0], seed)
    ef, recall = _narrowest(index, queries, depth, settings.min_recall)
    if recall < settings.min_recall:
        raise RecallTooLow(
            f"{path.name}: recall@{depth} is {recall:.4f} at ef {ef}, the widest, below index.min_recall "
            f"{settings.min_recall}; raise index.m or index.ef_construction, or search exactly (index.exact_below)"
        )
    index.save(path)
    return IndexInfo(
        kind="hnsw", ef=ef, m=settings.m, ef_construction=settings.ef_construction, recall=recall, recall_at=depth
    )


def _narrowest(index: HnswIndex, queries: NDArray[np.float32], depth: int, least: float) -> tuple[int, float]:
    """Return the smallest breadth that gives the least recall, or the widest, and its recall."""
    exact = ExactIndex(index.vectors)
    truth = [exact.search(query, depth)[1] for query in queries]  # scores, best first
    recall, ef = 0.0, BREADTHS[0]
    for ef in BREADTHS:
        searched = index.with_ef(ef)
        recall = float(np.mean([_found(searched, query, scores) for query, scores in zip(queries, truth, strict=True)]))
        if recall >= least:
            break
    return ef, recall


def _found(index: HnswIndex, query: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Return the share of found items that score no less than the last true one.

    By score, not by row: among items of equal vectors (two without a word) which are found says nothing of the search.
    """
    rows = index.search(query, len(truth))[0]
    return float(np.mean(index.vectors[rows] @ query >= truth[-1] - TIE * np.abs(truth).max()))
