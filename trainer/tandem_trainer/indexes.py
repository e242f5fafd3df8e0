"""Choosing how vectors are searched: exact, inverted lists or HNSW, whichever is fastest at the least recall."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tandem_core.clusters import Clusters
from tandem_core.index.base import VectorIndex
from tandem_core.index.exact import ExactIndex
from tandem_core.index.hnsw import HnswIndex
from tandem_core.index.ivf import IvfIndex
from tandem_core.manifest import IndexInfo
from tandem_trainer.config import IndexSettings

RECALL_AT = 300
BREADTHS = (300, 400, 500, 600, 800, 1000, 1400, 2000, 3000)  # a search for k items is never narrower than k
PROBED = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.13, 0.17, 0.22, 0.28, 0.36, 0.5)  # share of the lists
STAND_INS = 500  # vectors of the catalogue that are asked where there is no real query
TIMED = 100  # queries by which kinds are compared, each kind in turn
TIE = 1e-6  # scores nearer than this share of the best are equal: sums of floats in another order differ as much
# Cuts of the vectors' lengths, where these differ: clusters of like length say more of what their best member promises.
LENGTH_BANDS = (0.5, 0.8, 0.95)
UNEVEN = 0.01  # deviation of the lengths over their mean from which they differ

Vectors = NDArray[np.float32]


class RecallTooLow(ValueError):  # noqa: N818
    """The index misses too many true neighbours to be published."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to search at the recall it reaches; write: puts its file down, if it has one."""

    info: IndexInfo
    index: VectorIndex
    write: Callable[[], None]


def build_index(vectors: Vectors, queries: Vectors, settings: IndexSettings, path: Path, seed: int) -> IndexInfo:
    """Write the fastest index over `vectors` beside `path` (nothing for exact search) and return how to search it.

    Each of settings.kinds is made as narrow as settings.min_recall allows, then all are timed in turns; what the others
    took stands in the info. Below settings.exact_below items nothing can beat one matrix product, and nothing is timed.
    queries: float32 [Q, D], vectors of real users, against which recall@300 is measured (of all items where there are
    fewer); where Q is 0, items of the catalogue are asked instead. path: its suffix becomes that of the kind. Raises
    RecallTooLow when no kind meets settings.min_recall.
    """
    depth = min(RECALL_AT, len(vectors))
    if len(vectors) < settings.exact_below:
        return IndexInfo(kind="exact", recall=1.0, recall_at=depth)
    if not len(queries):
        queries = vectors[:: -(-len(vectors) // STAND_INS)]
    exact = ExactIndex(vectors)
    truth = [exact.search(query, depth)[1] for query in queries]  # scores, best first
    candidates = list(_candidates(exact, queries, truth, settings, path, seed))
    good = [each for each in candidates if (each.info.recall or 0) >= settings.min_recall]
    if not good:
        raise RecallTooLow("; ".join(_too_low(each.info, path, settings) for each in candidates))
    times = _microseconds([each.index for each in good], queries[:TIMED], depth)
    best = good[int(np.argmin(times))]
    best.write()
    taken = {each.info.kind: round(t, 1) for each, t in zip(good, times, strict=True)}
    return best.info.model_copy(update={"microseconds": taken})


def fit_lists(vectors: Vectors, seed: int) -> Clusters:
    """Cluster vectors, float32 [N, D], for inverted lists: by direction, and where lengths differ by length, too.

    About twice the square root of N directions; a list without members is left out. One thread: the same vectors and
    seed give the same lists.
    """
    lengths = np.linalg.norm(vectors, axis=1)
    directions = vectors / np.maximum(lengths, 1e-12)[:, None]
    uneven = lengths.std() > UNEVEN * lengths.mean()
    count = max(1, min(int(2 * np.sqrt(len(vectors))), len(vectors) // 10))
    if uneven:
        count = max(1, count // 4)
    with threadpool_limits(1):
        means = MiniBatchKMeans(count, batch_size=4096, n_init=1, max_iter=15, random_state=seed).fit(directions)
    labels = means.labels_.astype(np.int64)
    if uneven:
        bands = np.searchsorted(np.quantile(lengths, LENGTH_BANDS), lengths)
        labels = labels * (len(LENGTH_BANDS) + 1) + bands
    used, labels = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(used), vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    return Clusters(labels.astype(np.int32), (sums / np.bincount(labels)[:, None]).astype(np.float32))


def _candidates(
    exact: ExactIndex, queries: Vectors, truth: Sequence[Vectors], settings: IndexSettings, path: Path, seed: int
) -> Iterator[Candidate]:
    """Yield each kind of settings.kinds, as narrow as the least recall allows."""
    vectors, depth = exact.vectors, len(truth[0])
    if "exact" in settings.kinds:
        yield Candidate(IndexInfo(kind="exact", recall=1.0, recall_at=depth), exact, lambda: None)
    if "ivf" in settings.kinds:
        lists = IvfIndex(vectors, fit_lists(vectors, seed), 1)
        breadths = dict.fromkeys(max(1, round(share * len(lists.clusters))) for share in PROBED)
        probes, ivf, recall = _narrowest(lists.with_probes, list(breadths), queries, truth, settings.min_recall)
        info = IndexInfo(kind="ivf", probes=probes, recall=recall, recall_at=depth)
        yield Candidate(info, ivf, lambda: lists.clusters.save(path.with_suffix(".ivf.npz")))
    if "hnsw" in settings.kinds:
        graph = HnswIndex.build(vectors, settings.m, settings.ef_construction, BREADTHS[0], seed)
        ef, hnsw, recall = _narrowest(graph.with_ef, BREADTHS, queries, truth, settings.min_recall)
        info = IndexInfo(
            kind="hnsw",
            ef=ef,
            m=settings.m,
            ef_construction=settings.ef_construction,
            recall=recall,
            recall_at=depth,
        )
        yield Candidate(info, hnsw, lambda: graph.save(path.with_suffix(".hnsw")))


def _narrowest(
    with_breadth: Callable[[int], VectorIndex],
    breadths: Sequence[int],
    queries: Vectors,
    truth: Sequence[Vectors],
    least: float,
) -> tuple[int, VectorIndex, float]:
    """Return the smallest breadth that gives the least recall, or the widest; the index so searched; its recall."""
    for breadth in breadths:
        index = with_breadth(breadth)
        found = [_found(index, query, scores) for query, scores in zip(queries, truth, strict=True)]
        recall = float(np.mean(found))
        if recall >= least:
            break
    return breadth, index, recall


def _found(index: VectorIndex, query: Vectors, truth: Vectors) -> float:
    """Return the share of found items that score no less than the last true one.

    By score, not by row: among items of equal vectors (two without a word) which are found says nothing of the search.
    """
    rows = index.search(query, len(truth))[0]
    return float(np.mean(index.vectors[rows] @ query >= truth[-1] - TIE * np.abs(truth).max()))


def _microseconds(indexes: Sequence[VectorIndex], queries: Vectors, depth: int) -> list[float]:
    """Return the median CPU time of a search by each index, taking turns so that a busy machine troubles all alike."""
    taken = np.empty((len(indexes), len(queries)))
    for place, query in enumerate(queries):
        for number, index in enumerate(indexes):
            begun = time.thread_time_ns()
            index.search(query, depth)
            taken[number, place] = time.thread_time_ns() - begun
    return [float(median) for median in np.median(taken, axis=1) / 1000]


def _too_low(info: IndexInfo, path: Path, settings: IndexSettings) -> str:
    breadth = f"ef {info.ef}" if info.kind == "hnsw" else f"{info.probes} probes"
    return (
        f"{path.with_suffix('.' + info.kind).name}: recall@{info.recall_at} is {info.recall:.4f} at {breadth}, the "
        f"widest, below index.min_recall {settings.min_recall}; raise index.m or index.ef_construction, or search "
        "exactly too (index.kinds)"
    )
