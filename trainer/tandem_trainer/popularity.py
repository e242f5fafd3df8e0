"""Popularity tables counted from training events."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tandem_core.catalog import Catalog
from tandem_core.features import FeatureSchema, segment_key
from tandem_core.sources.popularity_tables import GLOBAL, PopularityTables, RankedTable

SMALLEST_SEGMENT = 20  # events; smaller segments say little, and wider ones stand in for them


def fit_popularity(
    event_rows_item: NDArray[np.integer],
    event_weights: NDArray[np.floating],
    event_user_attributes: pd.DataFrame,
    schema: FeatureSchema,
    catalog: Catalog,
    max_rows: int = 1000,
) -> PopularityTables:
    """Count E events into tables over everybody, per user segment and per category.

    event_rows_item: [E], catalogue rows. event_weights: [E]; 0 or less is not counted. event_user_attributes: E rows,
    a text column per attribute of the event's user, missing where unknown; values outside the schema's vocabulary are
    unknown too. The table over everybody holds every item, those without events last with score 0; the others hold up
    to `max_rows` items with events. Order: by falling weight, ties by row.
    """
    kept = (event_weights > 0) & (event_rows_item >= 0)
    rows, weights = event_rows_item[kept].astype(np.int64), event_weights[kept].astype(np.float64)
    totals = _sums(rows, weights, len(catalog))
    tables = {GLOBAL: _ranked(catalog.all_rows, totals, len(catalog))}
    for names in schema.segments:
        codes, keys = _segments(event_user_attributes, names, schema, kept)
        tables |= _grouped("segment", codes, keys, rows, weights, SMALLEST_SEGMENT, max_rows)
    if (categories := catalog.codes.get("categories")) is not None:
        in_category = categories.codes[rows]  # [E, C]
        event, _ = np.nonzero(in_category >= 0)
        group = in_category[in_category >= 0]
        tables |= _grouped("category", group, categories.vocabulary, rows[event], weights[event], 1, max_rows)
    return PopularityTables(tables)


def _segments(
    attributes: pd.DataFrame, names: Sequence[str], schema: FeatureSchema, kept: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], list[str]]:
    """Return the segment of each kept event, int64 [E], -1 where an attribute is unknown, and the segments' keys."""
    code: NDArray[np.int64] = np.zeros(int(kept.sum()), np.int64)
    known = np.ones(len(code), np.bool_)
    keys: list[dict[str, str]] = [{}]
    for name in names:
        vocabulary = schema.user_attributes[name]
        column = pd.Index(vocabulary).get_indexer(pd.Index(attributes[name][kept]))
        code = code * len(vocabulary) + column.astype(np.int64)
        known &= column >= 0
        keys = [key | {name: text} for key in keys for text in vocabulary]
    return np.where(known, code, -1), [segment_key(names, key) for key in keys]


def _grouped(
    kind: str,
    codes: NDArray[np.integer],
    keys: Sequence[str],
    rows: NDArray[np.int64],
    weights: NDArray[np.float64],
    least_events: int,
    max_rows: int,
) -> dict[str, RankedTable]:
    """Return a table per group with enough events; codes: [E], the group of each event (a place in `keys`), or -1."""
    order = np.argsort(codes, kind="stable")
    groups, starts = np.unique(codes[order], return_index=True)
    if not len(groups):
        return {}
    tables = {}
    for group, members in zip(groups, np.split(order, starts[1:]), strict=True):
        if group >= 0 and len(members) >= least_events:
            items, place = np.unique(rows[members], return_inverse=True)
            totals = _sums(place, weights[members], len(items))
            tables[f"{kind}:{keys[group]}"] = _ranked(items, totals, max_rows)
    return tables


def _sums(places: NDArray[np.integer], weights: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    return np.bincount(places, weights, minlength=length).astype(np.float64)


def _ranked(rows: NDArray[np.integer], totals: NDArray[np.float64], limit: int) -> RankedTable:
    """rows: int [n], rising. totals: float64 [n]. Scores are shares of all totals, also of those cut off."""
    order = np.lexsort((rows, -totals))[:limit]
    scores = totals[order] / max(float(totals.sum()), 1e-12)
    return RankedTable(rows[order].astype(np.int32), scores.astype(np.float32))
