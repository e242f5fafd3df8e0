"""What a run reads: tables, cut into parts, and how a bundle describes them."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd

from tandem_core.catalog import Catalog
from tandem_core.features import FeatureSchema
from tandem_core.manifest import DataInfo
from tandem_core.stores.base import UserStore
from tandem_trainer.config import TrainConfig
from tandem_trainer.data import Dataset, LoadOptions, SyntheticConfig, filter_min_interactions, load_dataset
from tandem_trainer.examples import Examples, make_examples
from tandem_trainer.forgotten import without_forgotten
from tandem_trainer.offline_queries import OfflineQueries, make_queries
from tandem_trainer.split import Split, make_split, random_within_user

FEWEST_ITEMS = 5
FEWEST_EVENTS = 20


def load_data(
    config: TrainConfig, data: Path | None, cache: Path | None = None, store: UserStore | None = None
) -> Dataset:
    """Return the tables of a run, small items and users left out as configured; raises DataError, StoreUnavailable.

    store: whose forgotten users are left out.
    """
    synthetic = SyntheticConfig(
        n_users=config.data.synthetic_users, n_items=config.data.synthetic_items, seed=config.seed
    )
    options = LoadOptions(now_ms=time.time_ns() // 1_000_000, synthetic=synthetic, cache_dir=cache)
    dataset = load_dataset(config.data.adapter, data, options=options)
    if store is not None:
        dataset = without_forgotten(dataset, store)
    if config.data.min_item_events or config.data.min_user_events:
        dataset = filter_min_interactions(dataset, config.data.min_item_events, config.data.min_user_events)
    return dataset


def split_data(config: TrainConfig, dataset: Dataset) -> Split:
    """Return the cut of a run; it proves by itself that nothing leaks."""
    settings = config.split
    split = make_split(
        settings.protocol,
        dataset.events,
        seed=config.seed,
        validation_fraction=settings.validation_fraction,
        test_fraction=settings.test_fraction,
        n_users=settings.test_users,
        shuffle_history=settings.shuffle_history,
    )
    if len(split.validation):
        return split
    # The protocol has two parts only, and models are chosen on a third: it is cut off the training part likewise.
    inner = random_within_user(split.train, settings.validation_fraction, seed=config.seed + 1)
    train, validation = (split.train.iloc[part.index] for part in (inner.train, inner.test))
    return replace(split, train=train, validation=validation)


def check_size(dataset: Dataset, train: pd.DataFrame) -> None:
    """Raise ValueError where there is so little that nothing can be learned from it."""
    items, events = train["item_id"].nunique(), len(train)
    if items < FEWEST_ITEMS or events < FEWEST_EVENTS:
        raise ValueError(
            f"{dataset.name}: the training part has {events} events on {items} items; at least {FEWEST_EVENTS} events "
            f"on {FEWEST_ITEMS} items are needed. Give more data, or lower data.min_item_events, data.min_user_events"
        )


def history_of_validation(split: Split) -> pd.DataFrame:
    """Return the events that may be known when validation events are to be found."""
    return split.train if split.validation_history is None else split.validation_history


def validation_examples(dataset: Dataset, split: Split, schema: FeatureSchema, catalog: Catalog) -> Examples:
    """Return the validation events as examples for the towers, each with all that may be known before it."""
    after = split.validation
    both = pd.concat([history_of_validation(split), after]).sort_values("timestamp", kind="stable")
    return make_examples(both, catalog, schema, dataset.users, both.index.isin(after.index))


def validation_queries(
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    schema: FeatureSchema,
    catalog: Catalog,
    *,
    most: int,
    moments: int = 1,
) -> OfflineQueries:
    """Return what users of the validation part would have asked; most: users, moments: of each (see make_queries)."""
    return make_queries(
        history_of_validation(split),
        split.validation,
        dataset.users,
        list(schema.user_attributes),
        catalog,
        max_results=config.ranker_data.candidates,
        most_users=most,
        moments=moments,
        seed=config.seed,
    )


def data_info(dataset: Dataset, train: pd.DataFrame) -> DataInfo:
    """Return what a bundle says of its data; the fingerprint covers all events of the data set, in order."""
    return DataInfo(
        name=dataset.name,
        fingerprint=fingerprint(dataset.events),
        events=len(train),
        users=int(train["user_id"].nunique()),
        items=len(dataset.items),
        first_event_ms=int(train["timestamp"].min()),
        last_event_ms=int(train["timestamp"].max()),
    )


def fingerprint(events: pd.DataFrame) -> str:
    """Return sha256 hex over users, items, times and types of all events, in order."""
    columns = events[["user_id", "item_id", "timestamp", "event_type"]]
    return hashlib.sha256(pd.util.hash_pandas_object(columns, index=False).to_numpy().tobytes()).hexdigest()
