"""The ranker's inputs: one function for training and serving, columns only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tandem_core.candidates import CandidateBatch, order
from tandem_core.catalog import Catalog, CodeColumn
from tandem_core.features import MS_PER_HOUR, FeatureSchema, History, User, months
from tandem_core.query import Regime
from tandem_core.ranker_events import MOST, event_columns, event_names
from tandem_core.ranker_tables import RankerTables
from tandem_core.sources.popularity_tables import GLOBAL, WINDOW

if TYPE_CHECKING:
    from tandem_core.bundle import Bundle

RECENT = 10  # newest events compared with each candidate
RETRIEVAL_PLACE = "retrieval_place"  # -log(1 + candidates before it): a sound score by itself
_RETRIEVAL_Z = "retrieval_z"  # the merged score in standard deviations above the mean of the request
OF_SOURCE = ("reciprocal_rank", "source_score", "source_z")
_SOURCES_FOUND = "sources_found"
MONTH = ("month_sin", "month_cos")

Column = NDArray[np.float32]


def feature_names(
    schema: FeatureSchema, sources: Collection[str], tables: Collection[str], events: int = 0
) -> list[str]:
    """Return the names of the ranker's columns, in order.

    sources: those that retrieval asks. tables: `RankerTables.names`. events: so many of the newest events
    have columns of their own, for attention.
    """
    # A column of which all items have nothing would be an input that says nothing.
    affinities = {"category_affinity": "categories", "category_recent": "categories", "creator_affinity": "creator"}
    return [
        RETRIEVAL_PLACE,
        _RETRIEVAL_Z,
        _SOURCES_FOUND,
        *(f"{kind}:{source}" for source in sources for kind in OF_SOURCE),
        *("taste_mean", "taste_max", "taste_newest", "content_mean", "content_max"),
        *(name for name, column in affinities.items() if column in schema.item_codes),
        *("log_events", *(f"level:{table}" for table in tables)),
        *(f"trend:{table}" for table in tables if table.startswith(WINDOW)),
        *("log_age_days", "age_known"),
        *(f"number:{name}" for name in schema.item_numbers),
        *(["price_ratio"] if "price" in schema.item_numbers else []),
        *("log_history", "log_idle_hours", "hour_sin", "hour_cos", "weekday_sin", "weekday_cos"),
        *(MONTH if schema.season else ()),
        *(f"regime_{regime.name.lower()}" for regime in Regime),
        *event_names(events),
    ]


def unknown_features(
    names: Sequence[str], schema: FeatureSchema, sources: Collection[str], tables: Collection[str]
) -> list[str]:
    """Return those of the names that can not be computed from what a bundle holds; arguments as of `feature_names`."""
    known = {*feature_names(schema, sources, tables), *event_names(MOST), *MONTH}
    return [name for name in names if name not in known]


def from_sources(names: Sequence[str]) -> NDArray[np.bool_]:
    """Return bool [len(names)]: which columns are 0 for candidates that a caller brought."""
    prefixes = (RETRIEVAL_PLACE, _RETRIEVAL_Z, _SOURCES_FOUND, *(f"{kind}:" for kind in OF_SOURCE))
    return np.array([name.startswith(prefixes) for name in names])


def ranker_features(
    names: Sequence[str],
    batch: CandidateBatch,
    user: User,
    bundle: Bundle,
    now_ms: int,
) -> NDArray[np.float32]:
    """Return float32 [n, len(names)]; what is unknown is 0. Looks at nothing later than `now_ms`."""
    catalog = bundle.catalog
    columns = (
        _source_columns(batch)
        | _similarities(batch, user.history, bundle)
        | _item_columns(batch, catalog, bundle.ranker_tables, now_ms)
        | _affinities(batch, user.history, catalog)
        | event_columns(names, batch.rows, user.history, bundle, now_ms)
    )
    constants = _constants(user, now_ms) | ({} if set(MONTH).isdisjoint(names) else _month(now_ms))
    features = np.zeros((len(names), len(batch)), np.float32)  # a column is one piece of memory while it is filled
    for i, name in enumerate(names):
        if (column := columns.get(name)) is not None:
            features[i] = column
        elif (value := constants.get(name)) is not None:
            features[i] = value
    return np.ascontiguousarray(features.T)


def _constants(user: User, now_ms: int) -> dict[str, float]:
    """Return what is the same for all candidates: it says what the others mean, and how likely any event is."""
    hour = now_ms / MS_PER_HOUR % 24 / 24 * 2 * np.pi
    day = now_ms / MS_PER_HOUR / 24 % 7 / 7 * 2 * np.pi
    idle_ms = max(now_ms - int(user.history.timestamps[0]), 0) if len(user.history) else 0
    return {
        "log_history": float(np.log1p(len(user.history))),
        "log_idle_hours": float(np.log1p(idle_ms / MS_PER_HOUR)),
        f"regime_{user.regime.name.lower()}": 1.0,
        **{"hour_sin": float(np.sin(hour)), "hour_cos": float(np.cos(hour))},
        **{"weekday_sin": float(np.sin(day)), "weekday_cos": float(np.cos(day))},
    }


def _month(now_ms: int) -> dict[str, float]:
    month = float(months(np.array(now_ms, np.int64))) / 12 * 2 * np.pi
    return dict(zip(MONTH, (float(np.sin(month)), float(np.cos(month))), strict=True))


def _source_columns(batch: CandidateBatch) -> dict[str, Column]:
    if not batch.sources:
        return {}  # candidates that a caller brought: where they stand says nothing
    # All sources of a kind in one table: a few numpy calls instead of a few for each source.
    ranks = np.stack([batch.columns[f"rank:{source}"] for source in batch.sources])  # [S, n]
    scores = np.stack([batch.columns[f"score:{source}"] for source in batch.sources])
    reciprocal = np.where(ranks > 0, 1 / np.sqrt(np.maximum(ranks, 1)), 0).astype(np.float32)
    standard = _standard(np.vstack([batch.scores, scores]))
    columns: dict[str, Column] = {
        RETRIEVAL_PLACE: -np.log1p(_places(batch)),
        _RETRIEVAL_Z: standard[0],
        _SOURCES_FOUND: (ranks > 0).sum(axis=0),
    }
    for number, source in enumerate(batch.sources):
        columns[f"reciprocal_rank:{source}"] = reciprocal[number]
        columns[f"source_score:{source}"] = scores[number]
        columns[f"source_z:{source}"] = standard[number + 1]
    return columns


def _standard(scores: Column) -> Column:
    """Return each row, float32 [n], with mean 0 and deviation 1; all 0 where its numbers do not differ."""
    if not scores.shape[-1]:
        return scores
    apart = scores - scores.mean(axis=-1, keepdims=True)
    spread = np.sqrt(np.square(apart).mean(axis=-1, keepdims=True))
    return np.where(spread > 1e-6, apart / np.maximum(spread, 1e-6), np.float32(0))


def _places(batch: CandidateBatch) -> Column:
    """Return float32 [n], how many candidates retrieval put before each."""
    places = np.empty(len(batch), np.float32)
    places[order(batch.scores, batch.rows)] = np.arange(len(batch))
    return places


def _similarities(batch: CandidateBatch, history: History, bundle: Bundle) -> dict[str, Column]:
    if not len(history) or not len(batch):
        return {}
    recent = history.rows[:RECENT]
    # Events before candidates: numpy sums whole rows several times as fast as many short ones.
    taste = bundle.item_vectors[recent] @ bundle.item_vectors.take(batch.rows, axis=0).T  # [h, n]
    content = bundle.content_vectors[recent] @ bundle.content_vectors.take(batch.rows, axis=0).T
    return {
        "taste_mean": taste.mean(axis=0),
        "taste_max": taste.max(axis=0),
        "taste_newest": taste[0],
        "content_mean": content.mean(axis=0),
        "content_max": content.max(axis=0),
    }


def _item_columns(batch: CandidateBatch, catalog: Catalog, tables: RankerTables, now_ms: int) -> dict[str, Column]:
    columns: dict[str, Column] = {"log_events": np.log1p(catalog.event_counts.take(batch.rows)).astype(np.float32)}
    levels = dict(zip(tables.names, tables.levels.take(batch.rows, axis=0).T, strict=True)) if tables.names else {}
    for name, level in levels.items():
        columns[f"level:{name}"] = level
        if name.startswith(WINDOW):
            columns[f"trend:{name}"] = level - levels[GLOBAL]
    if (created := catalog.numbers.get("created_at")) is not None:
        age_days = (now_ms / 1000 - created.take(batch.rows)) / 86_400
        known = np.isfinite(age_days)
        columns["age_known"] = known.astype(np.float32)
        columns["log_age_days"] = np.log1p(np.maximum(np.where(known, age_days, 0), 0)).astype(np.float32)
    for name, numbers in catalog.numbers.items():
        columns[f"number:{name}"] = np.nan_to_num(numbers.take(batch.rows)).astype(np.float32)
    return columns


def _affinities(batch: CandidateBatch, history: History, catalog: Catalog) -> dict[str, Column]:
    categories, creators = catalog.codes.get("categories"), catalog.codes.get("creator")
    columns = {
        "category_affinity": _affinity(batch, history, categories),
        "category_recent": _affinity(batch, history.newest(RECENT), categories),
        "creator_affinity": _affinity(batch, history, creators),
    }
    if (prices := catalog.numbers.get("price")) is not None:
        columns["price_ratio"] = _price_ratio(prices.take(batch.rows), prices[history.rows])
    return columns


def _price_ratio(prices: NDArray[np.float64], paid: NDArray[np.float64]) -> Column:
    """Return the logarithm of each price over the geometric mean of those of the history; 0 where one is unknown."""
    paid = paid[paid > 0]
    if not len(paid):
        return np.zeros(len(prices), np.float32)
    known = prices > 0
    return np.where(known, np.log(np.where(known, prices, 1)) - np.log(paid).mean(), 0).astype(np.float32)


def _affinity(batch: CandidateBatch, history: History, column: CodeColumn | None) -> Column:
    """Return the share of the user's event weight that has the candidate's codes, averaged over its codes."""
    if column is None or not len(history):
        return np.zeros(len(batch), np.float32)
    codes = column.codes[history.rows]
    # Slot 0 is that of code -1, no value: its total is not asked for.
    totals = np.bincount((codes + 1).ravel(), np.repeat(history.weights, codes.shape[1]), len(column.vocabulary) + 1)
    totals[0] = 0
    shares = (totals / max(float(history.weights.sum()), 1e-9)).astype(np.float32)
    own = column.codes.take(batch.rows, axis=0) + 1
    return np.asarray(shares[own].sum(axis=1) / np.maximum(np.count_nonzero(own, axis=1), 1), np.float32)
