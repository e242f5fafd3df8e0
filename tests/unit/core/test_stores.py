from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tandem_core.settings import ConfigError
from tandem_core.stores.base import StoredEvent, StoreUnavailable, UserStore
from tandem_core.stores.open import open_store
from tandem_core.stores.sqlite import SqliteStore


def event(
    item_id: str, time: int = 0, *, user: str = "ann", insert_id: str = "", value: float | None = None
) -> StoredEvent:
    return StoredEvent(insert_id, user, item_id, time, "view", value)


def items(store: UserStore, user: str = "ann") -> list[str]:
    return list(store.read(user).events.item_ids)


class StoreContract:
    """What every store does; a new one inherits these tests and gives its URL."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def store(self, url: str) -> Iterator[UserStore]:
        store = open_store(url)
        yield store
        store.close()

    def test_an_unknown_user_has_nothing(self, store: UserStore) -> None:
        stored = store.read("nobody")
        assert len(stored.events) == 0
        assert stored.events.timestamps.dtype == np.int64
        assert stored.attributes == {}

    def test_events_come_back_whole_and_oldest_first(self, store: UserStore) -> None:
        written = [
            StoredEvent("", "ann", "ä/日本", 2**41, "buy", 2.5),
            StoredEvent("", "ann", "i1", 5, "", None),
            StoredEvent("", "ann", "i2", -7, "view", float("nan")),
        ]
        assert store.add_events(written) == 3
        events = store.read("ann").events
        assert list(events.item_ids) == ["i2", "i1", "ä/日本"]
        assert events.timestamps.tolist() == [-7, 5, 2**41]
        assert list(events.event_types) == ["view", "", "buy"]
        assert events.values.dtype == np.float32
        np.testing.assert_array_equal(events.values, np.array([np.nan, np.nan, 2.5], np.float32))

    def test_events_of_one_moment_stand_in_the_order_they_arrived(self, store: UserStore) -> None:
        store.add_events([event("a", 5), event("b", 5)])
        store.add_events([event("c", 5), event("d", 4)])
        assert items(store) == ["d", "a", "b", "c"]

    def test_an_insert_id_is_stored_once_and_none_is_no_protection(self, store: UserStore) -> None:
        assert store.add_events([event("a", insert_id="x"), event("b", insert_id="x"), event("c", insert_id="y")]) == 2
        assert store.add_events([event("d", insert_id="x")]) == 0
        assert store.add_events([event("e"), event("e")]) == 2
        assert sorted(items(store)) == ["a", "c", "e", "e"]
        assert store.add_events([]) == 0

    def test_users_see_their_own_events_alone(self, store: UserStore) -> None:
        store.add_events([event("a"), event("b", user="bob"), event("c", user="ann ")])
        assert items(store) == ["a"]
        assert items(store, "bob") == ["b"]

    def test_attributes_are_replaced_as_a_whole(self, store: UserStore) -> None:
        assert store.put_users([("ann", {"age": "25", "city": "Köln"}), ("bob", {})]) == 2
        assert store.read("ann").attributes == {"age": "25", "city": "Köln"}
        store.put_users([("ann", {"age": "26"})])
        assert store.read("ann").attributes == {"age": "26"}
        assert store.read("bob").attributes == {}

    def test_what_was_written_is_read_by_others_at_once(self, store: UserStore, url: str) -> None:
        other = open_store(url)
        assert items(other) == []
        store.add_events([event("a")])
        assert items(other) == ["a"]
        store.put_users([("ann", {"age": "25"})])
        assert other.read("ann").attributes == {"age": "25"}
        other.close()

    def test_several_threads_write_and_read_and_nothing_is_lost(self, store: UserStore) -> None:
        seen: list[int] = []

        def work(name: str) -> None:
            for i in range(5):
                store.add_events([event(f"{name}{i}", insert_id=f"{name}{i}")])
                seen.append(len(items(store)))

        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(items(store)) == max(seen) == 15

    def test_events_that_fail_half_way_leave_nothing_behind(self, store: UserStore) -> None:
        broken = StoredEvent("", "ann", "b", 1, "view", {"no": "number"})  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable):
            store.add_events([event("a"), broken])
        assert items(store) == []

    def test_a_store_can_be_used_again_after_closing(self, store: UserStore) -> None:
        store.add_events([event("a")])
        store.close()
        assert items(store) == ["a"]


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/made/on/first/use.db"

    def test_only_the_newest_events_are_read(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "s.db", newest_events=2)
        store.add_events([event("old", 1), event("newest", 9), event("newer", 5)])
        assert items(store) == ["newer", "newest"]

    def test_nothing_is_opened_before_the_first_use(self, tmp_path: Path) -> None:
        open_store(f"sqlite:///{tmp_path}/s.db")
        assert list(tmp_path.iterdir()) == []

    def test_an_acknowledged_write_is_on_disk(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "s.db")
        store.add_events([event("a")])
        connection = store._connection()
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL

    def test_a_damaged_file_is_a_store_that_is_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "s.db").write_bytes(b"this is no database " * 100)
        store = SqliteStore(tmp_path / "s.db")
        for call in (
            lambda: store.read("ann"),
            lambda: store.add_events([event("a")]),
            lambda: store.put_users([("a", {})]),
        ):
            with pytest.raises(StoreUnavailable, match=r"s\.db: file is not a database"):
                call()

    def test_a_path_that_cannot_be_is_a_store_that_is_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        store = SqliteStore(tmp_path / "file" / "s.db")
        with pytest.raises(StoreUnavailable, match="file"):
            store.read("ann")
        with pytest.raises(StoreUnavailable, match="file"):
            store.add_events([event("a")])

    def test_a_file_locked_by_a_writer_can_still_be_read(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "s.db")
        store.add_events([event("a")])
        with sqlite3.connect(tmp_path / "s.db") as writer:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("DELETE FROM events")
            assert items(store) == ["a"]
            writer.rollback()


@pytest.mark.parametrize("url", ["", "store.db", "redis://localhost", "sqlite://x", "sqlite:///", "postgres:///x"])
def test_an_unknown_scheme_is_named_with_what_would_do(url: str) -> None:
    with pytest.raises(ConfigError, match=r"is not supported: use sqlite:///PATH") as caught:
        open_store(url)
    assert repr(url) in str(caught.value)


def test_a_new_file_that_another_process_is_writing_is_waited_for(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "store.db", check_same_thread=False, isolation_level=None)
    other.execute("CREATE TABLE theirs (x)")
    other.execute("BEGIN IMMEDIATE")

    def done() -> None:
        other.execute("COMMIT")
        other.close()

    release = threading.Timer(0.2, done)
    release.start()
    assert SqliteStore(tmp_path / "store.db").put_users([("u", {"age": "25"})]) == 1
    release.join()
