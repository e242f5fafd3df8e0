"""EASE: the linear item autoencoder with a zero diagonal, in closed form; a baseline, not a source."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse
from numpy.typing import NDArray


def fit_ease(
    rows_user: NDArray[np.integer],
    rows_item: NDArray[np.integer],
    n_users: int,
    n_items: int,
    regularization: float = 500.0,
) -> NDArray[np.float32]:
    """Return B, float32 [N, N] with a zero diagonal (Steck, WWW 2019): scores of a history x, 0 or 1 per item, are xB.

    rows_user, rows_item: [E], one entry per event; a pair counts once. B = I - P / diag(P), P = (X'X + rI)^-1. Needs
    16 bytes of memory per pair of items.
    """
    ones = np.ones(len(rows_user), np.float64)
    matrix = scipy.sparse.csr_matrix((ones, (rows_user, rows_item)), shape=(n_users, n_items))
    matrix.data[:] = 1  # building it has added up repeated pairs
    gram = (matrix.T @ matrix).toarray()
    gram[np.diag_indices(n_items)] += regularization
    inverse: NDArray[np.float64] = scipy.linalg.solve(gram, np.eye(n_items), assume_a="pos", overwrite_a=True)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights.astype(np.float32)
