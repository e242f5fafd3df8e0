"""Linear item models: a history as a row of item weights, times a matrix of items by items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from tandem_trainer.config import TrainConfig
from tandem_trainer.quality.cache import Arrays, Fit
from tandem_trainer.quality.log import Queries
from tandem_trainer.quality.protocols import Part
from tandem_trainer.quality.rows.base import Need, Row, Scorer, Scores, nothing_for_unknown

if TYPE_CHECKING:
    from tandem_trainer.quality.context import Fitting

NO_DECAY = float("inf")


class ItemKnnRow(Row):
    """Cosine of who chose two items, shrunk, over the nearest 100; a history's items count alike."""

    code = ("tandem_trainer.item_knn", "tandem_core.sparse_rows")

    def fit(self, fitting: Fitting) -> Fit:
        from tandem_trainer.item_knn import fit_item_knn  # noqa: PLC0415  (each row pays for its own imports)

        training = fitting.training
        return Fit(fit_item_knn(training.users, training.rows, training.n_users, training.n_items).arrays())

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        # An item's score sums over its own nearest that the user has (Sarwar et al., WWW 2001).
        return linear_scorer(_sparse(fit.arrays, fitting.training.n_items).T.tocsr(), NO_DECAY)


class EaseRow(Row):
    """EASE in closed form; a history's items count alike."""

    code = ("tandem_trainer.ease",)

    def fit(self, fitting: Fitting) -> Fit:
        from tandem_trainer.ease import fit_ease  # noqa: PLC0415

        training = fitting.training
        return Fit({"weights": fit_ease(training.users, training.rows, training.n_users, training.n_items)})

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        return linear_scorer(fit.arrays["weights"], NO_DECAY)


class EaseDecayedRow(Row):
    """The same matrix; the n-th newest event weighs .5 ** (n / half-life), with the half-life of the ALS fold-in."""

    fits = False

    def __init__(self, name: str, of: str = "ease") -> None:
        super().__init__(name)
        self._of = of

    def needs(self, part: Part) -> Sequence[Need]:
        return ((self._of, part),)

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        weights = fitting.fitted(self._of).fit.arrays["weights"]
        return linear_scorer(weights, fitting.config.features.als_half_life)


class SlistRow(Row):
    """What comes next after a recency-weighted history, by one ridge regression (the item-to-item source)."""

    code = ("tandem_trainer.slist", "tandem_core.sparse_rows")

    def settings(self, config: TrainConfig) -> Any:
        return config.item_to_item.model_dump()

    def fit(self, fitting: Fitting) -> Fit:
        from tandem_trainer.slist import fit_slist  # noqa: PLC0415

        training, settings = fitting.training, fitting.config.item_to_item
        weights = np.ones(len(training), np.float32)
        fitted = fit_slist(training.users, training.rows, weights, training.n_items, settings)
        return Fit(fitted.arrays())

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        half_life = fitting.config.item_to_item.serving_half_life
        return linear_scorer(_sparse(fit.arrays, fitting.training.n_items), half_life, add_up=True)


def linear_scorer(matrix: Any, half_life: float, *, add_up: bool = False) -> Scorer:
    """Score by history times matrix, [N, N], dense or sparse; for a user without a history nothing is listed.

    half_life: in events. add_up: whether events on one item add up, or the newest alone counts.
    """
    n = matrix.shape[0]

    def scores(queries: Queries) -> Scores:
        found = history_matrix(queries, n, half_life, add_up=add_up) @ matrix
        dense = found.toarray() if scipy.sparse.issparse(found) else found
        return nothing_for_unknown(queries, np.asarray(dense, np.float32))

    return scores


def history_matrix(queries: Queries, n_items: int, half_life: float, *, add_up: bool) -> Any:
    """Return a sparse matrix float32 [U, N]: the n-th newest event of a user weighs .5 ** (n / half_life)."""
    age = queries.indptr[queries.owners + 1] - 1 - np.arange(len(queries.rows))
    weights = np.exp2(-age / half_life).astype(np.float32)
    owners, rows = queries.owners, queries.rows
    if not add_up:
        # The last of a user's events on an item is its newest, for they are in the order of time.
        keys = owners * n_items + rows
        _, first = np.unique(keys[::-1], return_index=True)
        newest = len(keys) - 1 - first
        owners, rows, weights = owners[newest], rows[newest], weights[newest]
    return scipy.sparse.csr_matrix((weights, (owners, rows)), shape=(len(queries), n_items))


def _sparse(arrays: Arrays, n_items: int) -> Any:
    stored = arrays["values"], arrays["columns"], arrays["indptr"]
    return scipy.sparse.csr_matrix(stored, shape=(n_items, n_items))
