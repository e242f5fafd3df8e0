"""What the model of cold items must beat: categories, and TF-IDF neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import MultiLabelBinarizer, normalize

from tandem_core.content_model import WORD
from tandem_core.metrics.accuracy import Relevant, hits, ndcg_at

Sparse: TypeAlias = scipy.sparse.csr_matrix
Scores: TypeAlias = NDArray[np.float64]

ALL = 10**9  # neighbours: the cosine with the whole history
NEIGHBOURS = (5, 20, 50, 100, 200, ALL)


def category_vectors(items: pd.DataFrame) -> Sparse | None:
    """Return [N, C], unit length, a column per category; None where no item has one."""
    flags = MultiLabelBinarizer(sparse_output=True).fit_transform(items["categories"])
    return scipy.sparse.csr_matrix(normalize(flags.astype(np.float64))) if flags.shape[1] else None


def text_vectors(items: pd.DataFrame, fit_rows: NDArray[np.integer]) -> Sparse:
    """Return [N, words], unit length: TF-IDF of title, text, categories and creator, weighted by `fit_rows`."""
    tokens = [
        WORD.findall(f"{title} {text}".lower())
        + [f"category:{name}" for name in categories]  # whole: in words they are weaker (NDCG@20 .298 against .310)
        + ([f"creator:{creator}"] if isinstance(creator, str) else [])
        for title, text, categories, creator in items[["title", "text", "categories", "creator"]].itertuples(
            index=False
        )
    ]
    vectorizer = TfidfVectorizer(analyzer=list, sublinear_tf=True).fit([tokens[row] for row in fit_rows])
    return scipy.sparse.csr_matrix(vectorizer.transform(tokens))


def neighbour_scores(vectors: Sparse, histories: Sparse, cold: NDArray[np.integer], neighbours: int = ALL) -> Scores:
    """Return [U, n]: summed cosine of each cold item with those of its nearest neighbours that the history holds.

    histories: [U, N], zero in the columns of cold items. Neighbours are sought among all other items.
    """
    alike = (vectors[cold] @ vectors.T).toarray()  # [n, N]
    alike[:, cold] = 0
    if neighbours < alike.shape[1]:
        least = np.partition(alike, -neighbours, axis=1)[:, -neighbours]
        alike[alike < least[:, None]] = 0
    return np.asarray((histories @ scipy.sparse.csr_matrix(alike.T)).toarray(), np.float64)


def choose_neighbours(
    vectors: Sparse, histories: Sparse, warm: NDArray[np.integer], seed: int, among: Sequence[int] = NEIGHBOURS
) -> int:
    """Return the number of neighbours with the best NDCG@20 where a tenth of the warm items play the cold ones."""
    held = np.random.default_rng(seed).permutation(warm)[: max(1, len(warm) // 10)]
    is_held = np.zeros(histories.shape[1], np.bool_)
    is_held[held] = True
    truth = histories[:, held].tocsr()
    kept = scipy.sparse.csr_matrix(histories @ scipy.sparse.diags((~is_held).astype(np.float64)))
    kept.eliminate_zeros()
    judged = np.flatnonzero((np.diff(truth.indptr) > 0) & (np.diff(kept.indptr) > 0))
    pairs = truth[judged].tocoo()
    relevant = Relevant.from_pairs(pairs.row, pairs.col, len(judged))

    def quality(neighbours: int) -> float:
        ranked = best(neighbour_scores(vectors, kept[judged], held, neighbours))
        return float(np.nanmean(ndcg_at(hits(ranked, relevant), relevant, ranked.shape[1])))

    return max(among, key=quality)


def best(scores: NDArray[np.floating], k: int = 20) -> NDArray[np.int32]:
    """Return int32 [U, min(k, n)]: the places of the k highest scores, ties to the first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
