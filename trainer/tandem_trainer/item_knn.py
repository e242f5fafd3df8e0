"""Item nearest neighbours by cosine of who chose them; a baseline, not a source."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from tandem_core.sparse_rows import SparseRows

CHUNK = 1024  # items whose similarities are held at once


def fit_item_knn(
    rows_user: NDArray[np.integer],
    rows_item: NDArray[np.integer],
    n_users: int,
    n_items: int,
    neighbours: int = 100,
    shrinkage: float = 10.0,
) -> SparseRows:
    """Return similarities [N, N]: the `neighbours` nearest other items of each, ties to the smaller row.

    Similarity of items i and j chosen by the sets of users U_i and U_j: |U_i & U_j| / (sqrt(|U_i| |U_j|) + shrinkage);
    with a shrinkage above 0 few common users weigh less (Bell and Koren, 2007). rows_user, rows_item: [E]; a pair
    counts once.
    """
    ones = np.ones(len(rows_user), np.float32)
    by_item = scipy.sparse.csr_matrix((ones, (rows_item, rows_user)), shape=(n_items, n_users))
    by_item.data[:] = 1  # building it has added up repeated pairs
    norms = np.sqrt(np.diff(by_item.indptr))
    counts, columns, values = np.zeros(n_items, np.int64), [], []
    by_user = by_item.T.tocsr()
    for start in range(0, n_items, CHUNK):
        common = (by_item[start : start + CHUNK] @ by_user).toarray()
        similar = common / np.maximum(np.outer(norms[start : start + CHUNK], norms) + shrinkage, 1e-9)
        for row, entries in enumerate(similar, start):
            entries[row] = 0
            best = np.argsort(-entries, kind="stable")[:neighbours]
            best = np.sort(best[entries[best] > 0])
            counts[row] = len(best)
            columns.append(best)
            values.append(entries[best])
    return SparseRows(
        np.concatenate([[0], np.cumsum(counts)]),
        np.concatenate([np.empty(0), *columns]).astype(np.int32),
        np.concatenate([np.empty(0), *values]).astype(np.float32),
        n_items,
    )
