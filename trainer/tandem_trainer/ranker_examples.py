"""The ranker's examples: what retrieval really returns to users whose next events are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from tandem_core.budget import Budget
from tandem_core.catalog import Catalog
from tandem_core.features import FeatureSchema, resolve_user
from tandem_core.manifest import UNCERTAINTY, RankerHead
from tandem_core.query import UserEvents
from tandem_core.ranker_features import ranker_features
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.settings import Settings
from tandem_trainer.offline_queries import OfflineQueries
from tandem_trainer.progress import Progress
from tandem_trainer.ranker_fit import RankingData


class HeadSettings(Settings):
    """One answer of the ranker: whether an event of these types follows (of at least that value), or what its value
    is.
    """

    name: str
    event_types: tuple[str, ...] = Field(min_length=1)
    least_value: float | None = None
    value: bool = False

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if name == UNCERTAINTY:
            raise ValueError(f"{name!r} is what the ranker says of itself: name the head otherwise")
        return name


class RankerData(Settings):
    """What the ranker learns from."""

    most_requests: int = Field(default=6000, ge=10)  # fewer held out ones could not tell a 5 % gain from chance
    moments: int = Field(default=4, ge=1)  # of each user, spread over the validation events, at most one per event
    candidates: int = Field(default=500, ge=10)  # of each request: as many as the service ranks, or it meets new ground
    first: int = Field(default=100, ge=10)  # of the candidates are learned from, and
    others: int = Field(default=20, ge=1)  # of the rest, drawn, each standing for several
    source_dropout: float = Field(default=0.1, ge=0, lt=1)  # share of training requests that hide source columns
    gain: Literal["equal", "event_type", "value"] = "equal"  # what a right candidate counts in the loss of the order
    heads: tuple[HeadSettings, ...] = ()  # none: one per event type of the data, and one for the value of ratings
    fewest_events: int = Field(default=100, ge=1)  # of a type, for a head of its own


def find_heads(
    settings: RankerData, schema: FeatureSchema, offline: OfflineQueries, rating_types: Sequence[str]
) -> list[HeadSettings]:
    """Return the configured heads, or those that the data has enough events for; at least one."""
    if settings.heads:
        return list(settings.heads)
    types = [name for events in offline.outcomes for name in events.event_types]
    counts = {name: types.count(name) for name in dict.fromkeys(types)}
    wanted = [t.name for t in schema.event_types if t.weight > 0]
    heads = [HeadSettings(name=n, event_types=(n,)) for n in wanted if counts.get(n, 0) >= settings.fewest_events]
    heads = heads or [HeadSettings(name="event", event_types=tuple(counts))]
    return heads + [
        HeadSettings(name=f"{head.name}_value", event_types=head.event_types, value=True)
        for head in heads
        if set(head.event_types) & set(rating_types)
    ]


def as_entries(heads: Sequence[HeadSettings]) -> list[RankerHead]:
    return [RankerHead(**head.model_dump()) for head in heads]


def ranker_examples(
    pipeline: RetrievalPipeline,
    offline: OfflineQueries,
    names: Sequence[str],
    heads: Sequence[HeadSettings],
    settings: RankerData,
    seed: int,
    progress: Progress,
) -> RankingData:
    """Ask retrieval for each query and label what it returns, requests for which it found nothing right, too.

    The candidates of a request stand in the order retrieval gave them. Features are those the service computes, by the
    same function, at the time of the query. Of the candidates after the first `settings.first` some are drawn, and
    all that are right kept.
    """
    rng = np.random.default_rng(seed)
    bundle = pipeline.bundle
    parts: list[tuple[NDArray[np.float32], ...]] = []
    for i, query in enumerate(offline.queries):
        found = pipeline.retrieve(replace(query, max_results=settings.candidates), Budget()).candidates
        relevant = offline.relevant.rows[offline.relevant.indptr[i] : offline.relevant.indptr[i + 1]]
        right = np.isin(found.rows, relevant)
        kept, weights = _draw(right, settings, rng)
        user = resolve_user(bundle.schema, bundle.catalog, query)
        features = ranker_features(names, found, user, bundle, query.now_ms)[kept]
        rows, right = found.rows[kept], right[kept]
        truths = head_truths(rows, right, offline.outcomes[i], heads, bundle.catalog)
        gains = _gains(rows, right, offline.outcomes[i], settings.gain, bundle.catalog, bundle.schema)
        parts.append((features, gains, truths, weights))
        if i % 100 == 0:
            progress.advance(i, len(offline), "candidates of validation users")
    columns = [np.concatenate(each) for each in zip(*parts, strict=True)] if parts else []
    if not columns or not columns[1].any():
        raise ValueError("retrieval found no validation event among its candidates: nothing to train the ranker on")
    groups = np.repeat(np.arange(len(parts)), [len(gains) for _, gains, *_ in parts])
    _, users = np.unique([query.user_id for query in offline.queries], return_inverse=True)
    return RankingData(columns[0], columns[1], groups, columns[2], columns[3], users.astype(np.int64))


def _draw(
    right: NDArray[np.bool_], settings: RankerData, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return places of the candidates to keep, rising, and how many each stands for."""
    first = np.arange(len(right)) < settings.first
    rest = np.flatnonzero(~first & ~right)
    drawn = rng.choice(rest, min(settings.others, len(rest)), replace=False)
    weights = np.ones(len(right), np.float32)
    weights[drawn] = len(rest) / max(len(drawn), 1)
    kept = np.union1d(np.flatnonzero(first | right), drawn)
    return kept, weights[kept]


def head_truths(
    rows: NDArray[np.int32],
    right: NDArray[np.bool_],
    outcome: UserEvents,
    heads: Sequence[HeadSettings],
    catalog: Catalog,
) -> NDArray[np.float32]:
    """Return float32 [n, K]: 1 or 0, or the value (NaN where there was no such event); rows, right: [n]."""
    truths = np.zeros((len(rows), len(heads)), np.float32)
    place = {int(row): i for i, row in enumerate(rows) if right[i]}
    for k, head in enumerate(heads):
        if head.value:
            truths[:, k] = np.nan
        for item_id, event_type, value in zip(outcome.item_ids, outcome.event_types, outcome.values, strict=True):
            at = place.get(catalog.row_of.get(item_id, -1))
            if at is None or event_type not in head.event_types:
                continue
            if head.value:
                truths[at, k] = value
            elif head.least_value is None or value >= head.least_value:
                truths[at, k] = 1
    return truths


def _gains(
    rows: NDArray[np.int32],
    right: NDArray[np.bool_],
    outcome: UserEvents,
    gain: str,
    catalog: Catalog,
    schema: FeatureSchema,
) -> NDArray[np.float32]:
    """Return float32 [n], 0 for what was not chosen; for what was: 1, its weightiest event's weight, or its value."""
    gains = right.astype(np.float32)
    if gain == "equal":
        return gains
    place = {int(row): i for i, row in enumerate(rows) if right[i]}
    worth = dict.fromkeys(place.values(), 0.0)
    types = np.array([schema.type_code.get(name, 0) for name in outcome.event_types], np.int32)
    counts = schema.event_weights(types, outcome.values) if gain == "event_type" else outcome.values
    for item_id, own in zip(outcome.item_ids, counts, strict=True):
        if (at := place.get(catalog.row_of.get(item_id, -1))) is not None:
            worth[at] = max(worth[at], float(own) if np.isfinite(own) else 0.0)
    for at, each in worth.items():
        gains[at] = each
    return gains
