"""Ranking items that nobody has had yet, by what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tandem_trainer.config import TrainConfig
from tandem_trainer.quality.cache import Fit
from tandem_trainer.quality.log import Queries
from tandem_trainer.quality.protocols import Part
from tandem_trainer.quality.rows.base import Need, Row, Scorer, Scores, nothing_for_unknown
from tandem_trainer.quality.rows.features import content_of, feature_settings

if TYPE_CHECKING:
    from tandem_trainer.quality.context import Fitting

NEIGHBOURS = 10  # of an item, in a user's history


class CategoryProfileRow(Row):
    """Cosine between an item's categories and the mean of those of the user's items."""

    fits = False

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        column = fitting.catalog.codes.get("categories")
        flags = np.zeros((len(fitting.catalog), len(column.vocabulary) if column is not None else 1), np.float32)
        if column is not None:
            rows, places = np.nonzero(column.codes >= 0)
            flags[rows, column.codes[rows, places]] = 1
        directions = _unit(flags)

        def scores(queries: Queries) -> Scores:
            profiles = np.zeros((len(queries), directions.shape[1]), np.float32)
            np.add.at(profiles, queries.owners, directions[queries.rows])
            return nothing_for_unknown(queries, _unit(profiles) @ directions.T)

        return scores


class ContentNeighboursRow(Row):
    """Sum of an item's largest cosines with the user's items, over the content vectors (TF-IDF, reduced)."""

    code = ("tandem_trainer.content", "tandem_trainer.quality.rows.features", "tandem_trainer.text_encoder")

    def settings(self, config: TrainConfig) -> Any:
        return feature_settings(config)

    def fit(self, fitting: Fitting) -> Fit:
        return Fit({"content": content_of(fitting)})

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        content = fit.arrays["content"]

        def scores(queries: Queries) -> Scores:
            found = np.zeros((len(queries), len(content)), np.float32)
            for place in np.flatnonzero(queries.sizes).tolist():
                near = content @ content[np.unique(queries.history(place))].T  # [N, h]
                k = min(NEIGHBOURS, near.shape[1])
                found[place] = np.partition(near, near.shape[1] - k, axis=1)[:, -k:].sum(axis=1)
            return nothing_for_unknown(queries, found)

        return scores


class ContentTowerRow(Row):
    """The two towers: an item without training events goes through the item tower with its id missing."""

    refit: frozenset[str] = frozenset()
    fits = False

    def __init__(self, name: str, of: str = "two_tower") -> None:
        super().__init__(name)
        self._of = of

    def needs(self, part: Part) -> Sequence[Need]:
        return ((self._of, part),)

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        return fitting.fitted(self._of).scores


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions: NDArray[np.float32] = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return directions
