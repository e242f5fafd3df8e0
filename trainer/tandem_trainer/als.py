"""Implicit-feedback matrix factorisation; the bundle keeps the item side only, users are folded in when they ask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]


class AlsSettings(BaseModel):
    """Weighted ALS (Hu, Koren, Volinsky 2008)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factors: int = Field(default=64, ge=1)
    regularization: float = Field(default=10.0, ge=0)
    alpha: float = Field(default=4.0, gt=0)  # confidence of an event of weight 1; an absent one has 1
    iterations: int = Field(default=15, ge=1)


@dataclass(frozen=True, slots=True)
class AlsModel:
    """What it takes to fold a user in: item_factors Y, float32 [N, F], and two constants.

    The factor x of a user with event weights w solves (Y'Y + Y'(C - I)Y + regularization I) x = Y'C 1, where C is
    diagonal with alpha * w. This is what implicit computes: confidence is alpha * w and not 1 + alpha * w, and the
    regularization is not scaled by the number of events.
    """

    item_factors: NDArray[np.float32]
    alpha: float
    regularization: float


def fit_als(
    rows_user: NDArray[np.integer],
    rows_item: NDArray[np.integer],
    weights: NDArray[np.floating],
    n_users: int,
    n_items: int,
    settings: AlsSettings,
    seed: int,
) -> AlsModel:
    """Factorise event weights; an item without events gets the zero vector.

    rows_user, rows_item, weights: [E], one entry per event. Weights of a pair add up; events of weight 0 or less are
    left out. One thread: the result is the same to the bit for the same seed.
    """
    kept = weights > 0
    pairs = (rows_user[kept], rows_item[kept])
    matrix = scipy.sparse.csr_matrix((weights[kept].astype(np.float32), pairs), shape=(n_users, n_items))
    matrix.sum_duplicates()
    model = AlternatingLeastSquares(
        factors=settings.factors,
        regularization=settings.regularization,
        alpha=settings.alpha,
        iterations=settings.iterations,
        num_threads=1,
        random_state=np.random.default_rng(seed),
    )
    with threadpool_limits(1):  # its inner products wait on each other when BLAS has threads too
        model.fit(matrix, show_progress=False)
    # The solver starts at random values; those of items without events were never meant to be read.
    factors = np.where(np.bincount(pairs[1], minlength=n_items)[:, None] > 0, model.item_factors, 0)
    return AlsModel(factors.astype(np.float32), settings.alpha, settings.regularization)
