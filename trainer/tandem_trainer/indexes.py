"""Choosing how vectors are searched: exact, or HNSW with a breadth that meets a recall target on real queries."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem_core.index.exact import ExactIndex
from tandem_core.index.hnsw import HnswIndex
from tandem_core.manifest import IndexInfo
from tandem_trainer.config import IndexSettings

log = logging.getLogger(__name__)

RECALL_AT = 100
BREADTHS = (100, 150, 200, 300, 400, 600, 900, 1400, 2000)


class RecallTooLow(ValueError):  # noqa: N818
    """The index misses too many true neighbours to be published."""


def build_index(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], settings: IndexSettings, path: Path, seed: int
) -> IndexInfo:
    """Write an index over `vectors` to `path` (nothing for exact search) and return how to search it.

    queries: float32 [Q, D], vectors of real users, against which recall@100 is measured. Raises RecallTooLow when not
    even the widest search meets the gate.
    """
    if len(vectors) < settings.exact_below:
        return IndexInfo(kind="exact", recall_at_100=1.0)
    index = HnswIndex.build(vectors, settings.m, settings.ef_construction, BREADTHS[0], seed)
    ef, recall = _narrowest(index, ExactIndex(vectors), queries, settings.recall_target)
    if recall < settings.recall_gate:
        raise RecallTooLow(
            f"{path.name}: recall@{RECALL_AT} is {recall:.3f} at ef {ef}, below the gate of {settings.recall_gate}; "
            "raise index.m or index.ef_construction"
        )
    if recall < settings.recall_target:
        log.warning("index below its recall target", extra={"index": path.name, "recall": recall, "ef": ef})
    index.save(path)
    return IndexInfo(kind="hnsw", ef=ef, m=settings.m, ef_construction=settings.ef_construction, recall_at_100=recall)


def _narrowest(index: HnswIndex, exact: ExactIndex, queries: NDArray[np.float32], target: float) -> tuple[int, float]:
    """Return the smallest breadth that meets the target, or the widest, and its recall."""
    truth = [set(exact.search(query, RECALL_AT)[0].tolist()) for query in queries]
    recall, ef = 0.0, BREADTHS[0]
    for ef in BREADTHS:
        searched = index.with_ef(ef)
        hits = [
            len(true & set(searched.search(q, RECALL_AT)[0].tolist())) for q, true in zip(queries, truth, strict=True)
        ]
        recall = float(np.sum(hits) / max(1, sum(map(len, truth))))
        if recall >= target:
            break
    return ef, recall
