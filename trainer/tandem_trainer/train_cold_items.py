"""The model of cold items that a bundle gets: fitted on its training cut, with what its segments like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tandem_core.catalog import Catalog, CodeColumn
from tandem_core.features import FeatureSchema
from tandem_core.sources.cold_items_model import ColdItemModel
from tandem_core.sources.popularity_tables import PopularityTables, RankedTable
from tandem_trainer.cold_items import Choice, ColdItemSettings, ColdItemTrainer, Events, TooLittleToLearn
from tandem_trainer.data import Dataset
from tandem_trainer.prepare import event_weights, item_rows

SEGMENT = "segment:"  # of keys of popularity tables
SMOOTHING = 0.01  # of shares: a segment without an event in a category does not dislike it without bounds


def fit_cold_items(
    dataset: Dataset,
    train: pd.DataFrame,
    catalog: Catalog,
    schema: FeatureSchema,
    popularity: PopularityTables,
    settings: ColdItemSettings,
    seed: int,
) -> tuple[ColdItemModel, Choice] | None:
    """Return the model of a bundle and what was chosen for it, None where there is too little to learn from.

    train: events of the training cut, oldest first; popularity: fitted on the same.
    """
    chosen = train[event_weights(schema, train) > 0]
    users, names = pd.factorize(chosen["user_id"])
    events = Events(users, item_rows(catalog, chosen), len(names))
    cold_below, numbers = schema.cold_item_events, content_numbers(dataset)
    try:
        trainer = ColdItemTrainer(dataset.items, numbers, events, catalog.event_counts, cold_below, settings, seed)
        choice = trainer.choose()
    except TooLittleToLearn:
        return None
    return with_affinity(trainer.fit(choice), popularity, catalog), choice


def content_numbers(dataset: Dataset) -> list[str]:
    """Return the number columns that say what an item is, and not how it did; times are in milliseconds."""
    return ["price", "created_at", *dataset.schema.item_numeric]


def with_affinity(model: ColdItemModel, popularity: PopularityTables, catalog: Catalog) -> ColdItemModel:
    """Add what each segment likes more than everybody: log((s + .01) / (e + .01)), s and e shares of a category.

    Shares are of all that a table's items have of any category, counted on training events.
    """
    categories = catalog.codes.get("categories")
    keys = [key for key in popularity.tables if key.startswith(SEGMENT)]
    vocabulary = 0 if categories is None else len(categories.vocabulary)
    affinity = np.zeros((len(keys), vocabulary), np.float32)
    if categories is not None:
        everybody = _category_shares(popularity.everybody, categories)
        for at, key in enumerate(keys):
            shares = _category_shares(popularity.tables[key], categories)
            affinity[at] = np.log((shares + SMOOTHING) / (everybody + SMOOTHING))
    return replace(model, segments=tuple(key.removeprefix(SEGMENT) for key in keys), affinity=affinity)


def _category_shares(table: RankedTable, categories: CodeColumn) -> NDArray[np.float64]:
    codes = categories.codes[table.rows]
    weights = np.broadcast_to(table.scores[:, None], codes.shape)[codes >= 0]
    totals = np.bincount(codes[codes >= 0], weights, minlength=len(categories.vocabulary))
    return totals / max(float(totals.sum()), 1e-12)
