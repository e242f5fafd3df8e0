"""A data set's users in the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem_core.stores.sqlite import SqliteStore
from tandem_trainer.data.synthetic import SyntheticConfig, generate
from tandem_trainer.seed_store import store_events, store_users


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "store.db")


def test_every_event_is_stored_once_however_often_it_is_imported(store: SqliteStore) -> None:
    dataset = generate(SyntheticConfig(n_users=40, n_items=30))
    assert store_events(store, dataset.events) == len(dataset.events)
    assert store_events(store, dataset.events) == 0


def test_the_store_gives_back_what_the_tables_hold_in_their_order(store: SqliteStore) -> None:
    dataset = generate(SyntheticConfig(n_users=40, n_items=30))
    store_events(store, dataset.events)
    store_users(store, dataset.users)
    user_id = dataset.events["user_id"].mode()[0]
    expected = dataset.events[dataset.events["user_id"] == user_id]
    found = store.read(user_id)
    assert list(found.events.item_ids) == expected["item_id"].tolist()
    assert found.events.timestamps.tolist() == expected["timestamp"].tolist()
    assert list(found.events.event_types) == expected["event_type"].tolist()
    row = dataset.users.set_index("user_id").loc[user_id]
    assert dict(found.attributes) == {name: value for name, value in row.items() if isinstance(value, str)}


def test_two_equal_events_of_a_table_are_two_events(store: SqliteStore) -> None:
    dataset = generate(SyntheticConfig(n_users=10, n_items=10))
    twice = dataset.events.head(1).loc[lambda frame: frame.index.repeat(2)]
    assert store_events(store, twice) == 2
