"""The ranker's inputs: one function for training and serving, columns only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch, order
from tandem_core.catalog import Catalog, CodeColumn
from tandem_core.features import FeatureSchema, History, User
from tandem_core.query import Regime

RECENT = 10  # newest events compared with each candidate
RETRIEVAL_PLACE = "retrieval_place"  # -log(1 + candidates before it): a sound score by itself

Column = NDArray[np.float32]


def feature_names(schema: FeatureSchema, sources: Sequence[str]) -> list[str]:
    """Return the names of the ranker's columns, in order."""
    return [
        RETRIEVAL_PLACE,
        *(f"{kind}:{source}" for source in sources for kind in ("reciprocal_rank", "source_score")),
        *("taste_mean", "taste_max", "taste_newest", "content_mean", "content_max"),
        *("log_events", "category_affinity", "creator_affinity", "log_age_days", "age_known"),
        *("log_history", *(f"regime_{regime.name.lower()}" for regime in Regime)),
        *(f"number:{name}" for name in schema.item_numbers),
    ]


def from_sources(names: Sequence[str]) -> NDArray[np.bool_]:
    """Return bool [len(names)]: which columns are 0 for candidates that a caller brought."""
    prefixes = (RETRIEVAL_PLACE, "reciprocal_rank:", "source_score:")
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
        | _item_columns(batch, catalog, now_ms)
        | {
            "category_affinity": _affinity(batch, user.history, catalog.codes.get("categories")),
            "creator_affinity": _affinity(batch, user.history, catalog.codes.get("creator")),
        }
    )
    constants = {"log_history": np.log1p(len(user.history)), f"regime_{user.regime.name.lower()}": 1.0}
    features = np.zeros((len(batch), len(names)), np.float32)
    for i, name in enumerate(names):
        if (column := columns.get(name)) is not None:
            features[:, i] = column
        elif name in constants:
            features[:, i] = constants[name]
    return features


def _source_columns(batch: CandidateBatch) -> dict[str, Column]:
    if not batch.sources:
        return {}  # candidates that a caller brought: where they stand says nothing
    columns: dict[str, Column] = {RETRIEVAL_PLACE: -np.log1p(_places(batch))}
    for source in batch.sources:
        ranks = batch.columns[f"rank:{source}"]
        columns[f"reciprocal_rank:{source}"] = np.where(ranks > 0, 1 / np.sqrt(np.maximum(ranks, 1)), 0)
        columns[f"source_score:{source}"] = batch.columns[f"score:{source}"]
    return columns


def _places(batch: CandidateBatch) -> Column:
    """Return float32 [n], how many candidates retrieval put before each."""
    places = np.empty(len(batch), np.float32)
    places[order(batch.scores, batch.rows)] = np.arange(len(batch))
    return places


def _similarities(batch: CandidateBatch, history: History, bundle: Bundle) -> dict[str, Column]:
    if not len(history) or not len(batch):
        return {}
    recent = history.rows[:RECENT]
    taste = bundle.item_vectors[batch.rows] @ bundle.item_vectors[recent].T  # [n, h]
    content = bundle.content_vectors[batch.rows] @ bundle.content_vectors[recent].T
    return {
        "taste_mean": taste.mean(axis=1),
        "taste_max": taste.max(axis=1),
        "taste_newest": taste[:, 0],
        "content_mean": content.mean(axis=1),
        "content_max": content.max(axis=1),
    }


def _item_columns(batch: CandidateBatch, catalog: Catalog, now_ms: int) -> dict[str, Column]:
    columns: dict[str, Column] = {"log_events": np.log1p(catalog.event_counts[batch.rows]).astype(np.float32)}
    if (created := catalog.numbers.get("created_at")) is not None:
        age_days = (now_ms / 1000 - created[batch.rows]) / 86_400
        known = np.isfinite(age_days)
        columns["age_known"] = known.astype(np.float32)
        columns["log_age_days"] = np.log1p(np.maximum(np.where(known, age_days, 0), 0)).astype(np.float32)
    for name, numbers in catalog.numbers.items():
        columns[f"number:{name}"] = np.nan_to_num(numbers[batch.rows]).astype(np.float32)
    return columns


def _affinity(batch: CandidateBatch, history: History, column: CodeColumn | None) -> Column:
    """Return the share of the user's event weight that has the candidate's codes, averaged over its codes."""
    if column is None or not len(history):
        return np.zeros(len(batch), np.float32)
    codes = column.codes[history.rows]
    weights = np.broadcast_to(history.weights[:, None], codes.shape)
    # One slot more than there are codes: code -1 (no value) reads the last one, which is set to 0.
    totals = np.bincount(codes[codes >= 0], weights[codes >= 0], minlength=len(column.vocabulary) + 1)
    shares = (totals / max(float(history.weights.sum()), 1e-9)).astype(np.float32)
    shares[-1] = 0
    own = column.codes[batch.rows]
    return np.asarray(shares[own].sum(axis=1) / np.maximum((own >= 0).sum(axis=1), 1), np.float32)
