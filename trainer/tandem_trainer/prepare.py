"""From tables to the catalogue and the feature schema of a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tandem_core.catalog import Catalog, CodeColumn
from tandem_core.features import FeatureSchema
from tandem_trainer.config import TrainConfig
from tandem_trainer.data import Dataset
from tandem_trainer.examples import event_values
from tandem_trainer.season import shows_season


def build_catalog(dataset: Dataset, train: pd.DataFrame, most_codes: int) -> Catalog:
    """Return every item of the tables, counting only training events."""
    items = dataset.items
    item_ids = items["item_id"].tolist()
    codes = {"categories": _code_column(items["categories"], most_codes)}
    for name in ("creator", *dataset.schema.item_categorical):
        codes[name] = _code_column(([value] if isinstance(value, str) else [] for value in items[name]), 1)
    # A column without a single value would be an input that says nothing.
    known = {name: column for name, column in codes.items() if column.vocabulary}
    created = items["created_at"].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan) / 1000
    numbers = {"created_at": created, "price": items["price"].to_numpy(dtype=np.float64)}
    numbers |= {name: items[name].to_numpy(dtype=np.float64) for name in dataset.schema.item_numeric}
    return Catalog(
        item_ids=item_ids,
        titles=items["title"].tolist(),
        codes=known,
        numbers={
            name: np.where(np.isfinite(column), column, np.nan)
            for name, column in numbers.items()
            if np.isfinite(column).any()
        },
        event_counts=np.bincount(_rows(item_ids, train), minlength=len(item_ids)).astype(np.int32),
    )


def build_schema(
    dataset: Dataset,
    train: pd.DataFrame,
    catalog: Catalog,
    config: TrainConfig,
    validated: FeatureSchema | None = None,
) -> FeatureSchema:
    """Return what the towers and the ranker will read; users' vocabularies are those of the tables, in order of text.

    train: the training events, which decide whether the season can be read and which contexts are known. validated: of
    the same models on fewer events, of which held-out figures are known: a fit on all reads the season where that did.
    """
    times = train["timestamp"].to_numpy(dtype=np.int64)
    season = shows_season(times) if validated is None else validated.season
    attributes = {
        name: tuple(sorted({value for value in dataset.users[name] if isinstance(value, str)}))
        for name in dataset.schema.user_attributes
    }
    return FeatureSchema(
        event_types=config.event_types,
        user_attributes=attributes,
        request_context=_context_vocabularies(train, dataset.schema.event_context, config.features.most_context_values),
        season=config.features.season and season,
        segments=dataset.schema.segments,
        item_codes=tuple(catalog.codes),
        item_numbers=tuple(name for name in catalog.numbers if name != "created_at"),
        history_length=config.features.history_length,
        vector_dim=config.towers.joint_dim,
        cold_user_events=config.features.cold_user_events,
        cold_item_events=config.features.cold_item_events,
    )


def _context_vocabularies(train: pd.DataFrame, names: Sequence[str], most: int) -> dict[str, tuple[str, ...]]:
    """Return the most frequent texts of each column, by falling frequency and then by text; without any, no column."""
    found = {}
    for name in names:
        counts = train[name].value_counts().rename_axis("text").reset_index(name="n")
        known = counts.sort_values(["n", "text"], ascending=[False, True])["text"]
        if len(known):  # a column without a single value would be an input that says nothing
            found[name] = tuple(known[:most].tolist())
    return found


def item_rows(catalog: Catalog, events: pd.DataFrame) -> NDArray[np.int64]:
    """Return int64 [n], the catalogue row of each event."""
    return _rows(catalog.item_ids, events)


def event_weights(schema: FeatureSchema, events: pd.DataFrame) -> NDArray[np.float32]:
    """Return float32 [n], what each event is worth by its type and value; unknown types weigh 1."""
    return schema.event_weights(type_codes(schema, events), event_values(events))


def type_codes(schema: FeatureSchema, events: pd.DataFrame) -> NDArray[np.int64]:
    """Return int64 [n], the code of each event's type; 0 where the schema does not know it."""
    return np.asarray(events["event_type"].map(schema.type_code).fillna(0), np.int64)


def _rows(item_ids: Sequence[str], events: pd.DataFrame) -> NDArray[np.int64]:
    return pd.Index(item_ids).get_indexer(pd.Index(events["item_id"])).astype(np.int64)


def _code_column(values: Iterable[Sequence[str]], most: int) -> CodeColumn:
    listed = [list(dict.fromkeys(each))[:most] for each in values]
    vocabulary = sorted({text for each in listed for text in each})
    code_of = {text: code for code, text in enumerate(vocabulary)}
    codes = np.full((len(listed), max(1, *(len(each) for each in listed))), -1, np.int32)
    for row, each in enumerate(listed):
        codes[row, : len(each)] = [code_of[text] for text in each]
    return CodeColumn(codes, vocabulary)
