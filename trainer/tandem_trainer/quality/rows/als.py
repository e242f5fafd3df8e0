"""Weighted ALS, its users folded in from their histories: alike, or the newest events first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tandem_core.index.exact import ExactIndex
from tandem_core.sources.als import Als
from tandem_trainer.als import fit_als
from tandem_trainer.config import TrainConfig
from tandem_trainer.quality.cache import Fit
from tandem_trainer.quality.log import Queries
from tandem_trainer.quality.protocols import Part
from tandem_trainer.quality.rows.base import Need, Row, Scorer, Scores, nothing_for_unknown

if TYPE_CHECKING:
    from tandem_trainer.quality.context import Fitting

NO_DECAY = float("inf")


class AlsRow(Row):
    """ALS with user factors folded in from all events alike."""

    code = ("tandem_trainer.als",)

    def settings(self, config: TrainConfig) -> Any:
        return config.als.model_dump()

    def fit(self, fitting: Fitting) -> Fit:
        return Fit({"item_factors": item_factors(fitting)})

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        return fold_in_scorer(as_source(fitting, fit, NO_DECAY))


class AlsFoldInRow(Row):
    """The same factors; the n-th newest event weighs .5 ** (n / half-life), as the service folds users in."""

    fits = False

    def __init__(self, name: str, of: str = "als") -> None:
        super().__init__(name)
        self._of = of

    def needs(self, part: Part) -> Sequence[Need]:
        return ((self._of, part),)

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        factors = fitting.fitted(self._of).fit
        return fold_in_scorer(as_source(fitting, factors, fitting.config.features.als_half_life))


def item_factors(fitting: Fitting) -> NDArray[np.float32]:
    """Return float32 [N, F], fitted on the training events."""
    training, config = fitting.training, fitting.config
    weights = np.ones(len(training), np.float32)
    sizes = training.n_users, training.n_items
    return fit_als(training.users, training.rows, weights, *sizes, config.als, config.seed).item_factors


def as_source(fitting: Fitting, fit: Fit, half_life: float) -> Als:
    """Return the service's source over the factors of a fit."""
    settings = fitting.config.als
    return Als(ExactIndex(fit.arrays["item_factors"]), settings.alpha, settings.regularization, half_life)


def fold_in_scorer(als: Als) -> Scorer:
    """Score by predicted preference; for a user without a history nothing is listed."""
    vectors = als.index.vectors

    def scores(queries: Queries) -> Scores:
        factors = np.zeros((len(queries), vectors.shape[1]), np.float32)
        for place in np.flatnonzero(queries.sizes).tolist():
            rows = queries.history(place)
            weights = np.exp2(-np.arange(len(rows)) / als.half_life).astype(np.float32)
            factors[place] = als.fold_in(rows, weights)
        return nothing_for_unknown(queries, factors @ vectors.T)

    return scores
