from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem_core.stores.base import StoredEvent, StoreUnavailable
from tandem_core.stores.live import Cursor, Encoding, LiveItem, LiveStore
from tandem_core.stores.open import open_store
from tandem_core.stores.open_live import open_live_store


def item(item_id: str, title: str = "A title") -> LiveItem:
    return LiveItem(item_id, title, "some words", {"categories": ["a", "ü"]}, {"price": 1.5})


def encoding(number: float) -> Encoding:
    return Encoding(np.full(4, number, np.float32), np.full(3, -number, np.float32))


def upsert(store: LiveStore, *item_ids: str, bundle_id: str = "b1", number: float = 1) -> None:
    store.upsert([item(item_id) for item_id in item_ids], {bundle_id: [encoding(number)] * len(item_ids)})


def added(store: LiveStore, bundle_id: str = "b1") -> list[str]:
    return [each.item.item_id for each in store.changes(bundle_id, Cursor(), None).added]


class LiveStoreContract:
    """What every store of live items does; a new one inherits these tests and gives its URL."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def store(self, url: str) -> Iterator[LiveStore]:
        store = open_live_store(url)
        yield store
        store.close()

    @pytest.fixture
    def reader(self, url: str) -> Iterator[LiveStore]:
        """Another process's way to the same items."""
        store = open_live_store(url)
        yield store
        store.close()

    def test_every_change_is_seen_by_another_reader_and_nothing_else_moves_the_version(
        self, store: LiveStore, reader: LiveStore, url: str
    ) -> None:
        versions = [reader.version()]
        for change in (
            lambda: upsert(store, "x"),
            lambda: upsert(store, "x"),
            lambda: store.delete(["x"]),
            lambda: store.delete(["never-there"]),
        ):
            change()
            versions.append(reader.version())
            assert store.version() == versions[-1]
        assert sorted(set(versions)) == versions
        users = open_store(url)
        users.add_events([StoredEvent("", "u", "x", 0, "view", None)])
        users.close()
        assert reader.version() == versions[-1]

    def test_an_item_comes_back_as_it_was_written(self, store: LiveStore, reader: LiveStore) -> None:
        upsert(store, "x", number=2)
        assert reader.get("x") == item("x")
        assert list(reader.items()) == [item("x")]
        (change,) = reader.changes("b1", Cursor(), None).added
        assert change.item == LiveItem("x", "A title", "", {"categories": ["a", "ü"]}, {"price": 1.5})
        np.testing.assert_array_equal(change.encoding.item_vector, encoding(2).item_vector)
        np.testing.assert_array_equal(change.encoding.content_vector, encoding(2).content_vector)

    def test_changes_come_in_order_and_only_those_after_the_cursor(self, store: LiveStore, reader: LiveStore) -> None:
        upsert(store, "a", "b")
        first = reader.changes("b1", Cursor(), None)
        assert [each.item.item_id for each in first.added] == ["a", "b"]
        assert not first.deleted
        assert not first.more
        upsert(store, "c")
        upsert(store, "a")
        store.delete(["b", "of-the-bundle"])
        then = reader.changes("b1", first.cursor, None)
        assert [each.item.item_id for each in then.added] == ["c", "a"]
        assert then.deleted == ["b", "of-the-bundle"]
        assert reader.changes("b1", then.cursor, None) == ([], [], then.cursor, False)
        numbers = [each.seq for each in (*first.added, *then.added)]
        assert len(set(numbers)) == 4
        assert numbers == sorted(numbers)

    def test_additions_come_in_parts_and_deletions_all_at_once(self, store: LiveStore) -> None:
        upsert(store, *"abcde")
        store.delete(["x", "y", "z"])
        part = store.changes("b1", Cursor(), 3)
        assert [each.item.item_id for each in part.added] == list("abc")
        assert part.more
        assert sorted(part.deleted) == ["x", "y", "z"]
        rest = store.changes("b1", part.cursor, 3)
        assert [each.item.item_id for each in rest.added] == list("de")
        assert not rest.more
        assert not rest.deleted

    def test_a_deleted_item_is_there_again_once_it_is_written_again(self, store: LiveStore) -> None:
        upsert(store, "x")
        store.delete(["x", "y"])
        assert store.get("x") is None
        assert store.is_deleted("x")
        assert not store.is_deleted("never-there")
        assert sorted(store.deleted_ids()) == ["x", "y"]
        assert not list(store.items())
        upsert(store, "x")
        assert store.get("x") == item("x")
        assert store.deleted_ids() == ["y"]
        assert store.changes("b1", Cursor(), None).deleted == ["y"]
        assert added(store) == ["x"]

    def test_of_one_item_twice_in_a_write_the_last_counts(self, store: LiveStore) -> None:
        items = [item("x", "first"), item("y"), item("x", "last")]
        store.upsert(items, {"b1": [encoding(1), encoding(2), encoding(3)]})
        found = {each.item.item_id: each for each in store.changes("b1", Cursor(), None).added}
        assert set(found) == {"x", "y"}
        assert found["x"].item.title == "last"
        assert found["x"].encoding.item_vector[0] == 3

    def test_items_are_encoded_for_a_bundle_that_came_later(self, store: LiveStore) -> None:
        upsert(store, "a", "b", "c", "d")
        store.delete(["d"])
        assert added(store, bundle_id="b2") == []
        missing = store.not_encoded("b2", 2)
        assert [each.item_id for _, each, _ in missing] == ["a", "b"]
        assert missing[0][1].text == "some words"
        all_missing = store.not_encoded("b2", 10)
        before = store.version()
        upsert(store, "c", bundle_id="b1")  # changed while it is encoded: what comes of that is of an older version
        store.delete(["b"])
        encoded = [(number, each.item_id, encoding(7)) for number, each, _ in all_missing]
        store.add_encodings("b2", [(encoded[0][0], "a", None), *encoded[1:]])
        assert store.version() > before
        assert added(store, bundle_id="b2") == []  # the bundle holds a, b went, c changed
        ((number, _, _),) = store.not_encoded("b2", 10)
        store.add_encodings("b2", [(number, "c", encoding(8))])
        assert added(store, bundle_id="b2") == ["c"]
        assert not store.not_encoded("b2", 10)

    def test_what_no_bundle_needs_is_let_go(self, store: LiveStore) -> None:
        store.upsert([item("x")], {"b1": [encoding(1)], "b2": [encoding(2)]})
        store.keep_encodings(["b2"])
        assert added(store, bundle_id="b1") == []
        assert added(store, bundle_id="b2") == ["x"]
        assert store.get("x") == item("x")

    def test_everything_is_there_after_all_connections_are_closed(self, store: LiveStore, url: str) -> None:
        upsert(store, "x")
        store.delete(["y"])
        version = store.version()
        store.close()
        again = open_live_store(url)
        assert (again.version(), added(again), again.deleted_ids()) == (version, ["x"], ["y"])
        again.close()


class TestSqlite(LiveStoreContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/deep/store.db"


class TestRedis(LiveStoreContract):
    @pytest.fixture
    def url(self, valkey: Any) -> str:
        redis = pytest.importorskip("redis")
        redis.Redis(port=valkey.port, db=3).flushdb()
        return f"redis://127.0.0.1:{valkey.port}/3"

    def test_that_nothing_is_missing_is_known_without_a_look_at_every_item(self, store: LiveStore, valkey: Any) -> None:
        redis = pytest.importorskip("redis")
        upsert(store, *(f"i{i}" for i in range(50)))
        with redis.Redis(port=valkey.port) as client:
            client.config_resetstat()
            assert store.not_encoded("b1", 1) == []
            assert "cmdstat_hexists" not in client.info("commandstats")
            assert len(store.not_encoded("b2", 100)) == 50


@pytest.mark.parametrize("url", ["sqlite:////dev/null/store.db", "redis://127.0.0.1:1/0"])
def test_a_store_that_cannot_be_reached_says_so(url: str) -> None:
    store = open_live_store(url)
    for call in (store.version, lambda: store.delete(["x"]), lambda: store.changes("b1", Cursor(), 5)):
        with pytest.raises(StoreUnavailable):
            call()
