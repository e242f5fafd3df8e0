from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from tandem_core.settings import ConfigError
from tandem_core.stores.base import Outcome, StoredEvent, StoredUser, StoreUnavailable, UserStore
from tandem_core.stores.open import open_store
from tandem_core.stores.redis import RedisStore
from tandem_core.stores.sqlite import _READ, _READ_SHOWN, SqliteStore
from tandem_core.stores.sqlite_erase import remnants


def event(
    item_id: str, time_ms: int | None = 0, *, user: str = "ann", insert_id: str = "", value: float | None = None
) -> StoredEvent:
    return StoredEvent(insert_id, user, item_id, time_ms, "view", value)


def new(outcomes: list[Outcome]) -> int:
    return outcomes.count(Outcome.STORED)


def items(store: UserStore, user: str = "ann") -> list[str]:
    return list(store.read(user).events.item_ids)


def shown(item_id: str, time_ms: int = 0, *, insert_id: str = "") -> StoredEvent:
    return StoredEvent(insert_id, "ann", item_id, time_ms, "impression", None)


def shown_of(user: StoredUser) -> dict[str, tuple[int, int]]:
    columns = zip(user.shown.item_ids, user.shown.counts.tolist(), user.shown.last_ms.tolist(), strict=True)
    return {item_id: (count, last) for item_id, count, last in columns}


FIRST_VERSION = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, insert_id TEXT UNIQUE, user_id TEXT NOT NULL, item_id TEXT NOT NULL,
    timestamp_ms INTEGER NOT NULL, event_type TEXT NOT NULL, value REAL
);
CREATE INDEX events_by_user ON events (user_id, timestamp_ms, seq);
CREATE TABLE users (user_id TEXT PRIMARY KEY, attributes TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO events (insert_id, user_id, item_id, timestamp_ms, event_type, value) VALUES
    ('x', 'ann', 'a', 5, 'buy', 2.5), (NULL, 'ann', 'b', 6, 'impression', NULL), (NULL, 'ann', 'c', 7, 'view', NULL);
INSERT INTO users VALUES ('ann', '{"age": "25"}');
"""


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
        assert store.add_events(written) == [Outcome.STORED] * 3
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
        stored, double = Outcome.STORED, Outcome.DUPLICATE
        batch = [event("a", insert_id="x"), event("b", insert_id="x"), event("c", insert_id="y")]
        assert store.add_events(batch) == [stored, double, stored]
        assert store.add_events([event("d", insert_id="x"), event("f", insert_id="z")]) == [double, stored]
        assert store.add_events([event("e"), event("e")]) == [stored, stored]
        assert sorted(items(store)) == ["a", "c", "e", "e", "f"]
        assert store.add_events([]) == []

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
        with pytest.raises((StoreUnavailable, TypeError)):
            store.add_events([event("a"), broken])
        assert items(store) == []

    def test_what_was_shown_stays_apart_from_what_was_chosen(self, store: UserStore) -> None:
        store.add_events([shown("a", 10), event("b", 20), shown("a", 30), shown("c", 5)])
        known = store.read("ann")
        assert list(known.events.item_ids) == ["b"]
        assert shown_of(known) == {"a": (2, 30), "c": (1, 5)}
        assert known.shown.counts.dtype == np.int32
        assert known.shown.last_ms.dtype == np.int64
        assert len(store.read("bob").shown) == 0
        assert store.add_events([shown("d", insert_id="x"), event("d", insert_id="x")]) == [
            Outcome.STORED,
            Outcome.DUPLICATE,
        ]

    def test_an_event_without_a_time_arrives_now_and_never_before_the_last_one(
        self, store: UserStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = iter([1000, 2000, 500, 1999, 2001])
        monkeypatch.setattr(store, "_clock_ms", lambda: next(clock))
        for item in "abcde":
            store.add_events([event(item, None)])
        known = store.read("ann").events
        assert list(known.item_ids) == ["a", "b", "c", "d", "e"]
        assert known.timestamps.tolist() == [1000, 2000, 2000, 2000, 2001]

    def test_the_log_has_every_event_once_in_the_order_of_its_numbers(self, store: UserStore) -> None:
        first = StoredEvent("x", "ann", "a", 9, "buy", 2.5, "decision", 3, "visit", {"device": "tv", "app": "ä"})
        store.add_events([first, shown("b", 8), event("c", 7, user="bob")])
        store.add_events([event("d", 6), first])
        (a, b, c), (d,) = store.log(0, 3)
        assert tuple(a)[1:] == ("ann", "a", 9, "buy", 2.5, "decision", 3, "visit", {"device": "tv", "app": "ä"})
        assert (b.context, c.context) == ({}, {})
        assert (b.item_id, b.event_type, c.user_id, d.item_id, d.value) == ("b", "impression", "bob", "d", None)
        assert a.sequence < b.sequence < c.sequence < d.sequence
        assert [[e.item_id for e in part] for part in store.log(b.sequence, 10)] == [["c", "d"]]
        assert list(store.log(d.sequence, 10)) == []

    def test_a_forgotten_user_is_gone_and_named_to_those_who_train(self, store: UserStore, url: str) -> None:
        store.add_events([event("a", insert_id="x"), event("b"), shown("c"), event("d", user="bob")])
        store.put_users([("ann", {"age": "25"})])
        before = store.add_events([event("e", None)])
        done = store.forget("ann")
        assert before == [Outcome.STORED]
        assert (done.events, done.impressions, done.attributes) == (3, 1, 1)
        known = store.read("ann")
        assert (len(known.events), len(known.shown), known.attributes) == (0, 0, {})
        assert [e.user_id for part in store.log(0, 10) for e in part] == ["bob"]
        assert items(store, "bob") == ["d"]
        other = open_store(url)
        assert other.forgotten_among(["bob", "ann", "eve"]) == {"ann"}
        other.close()
        again = store.forget("ann")
        assert (again.events, again.impressions, again.attributes) == (0, 0, 0)
        assert again.time_ms >= done.time_ms

    def test_a_late_event_does_not_bring_a_forgotten_user_back_and_a_new_one_is_served(self, store: UserStore) -> None:
        store.add_events([event("a", 5, insert_id="x")])
        done = store.forget("ann")
        sent_again = store.add_events([event("a", 5, insert_id="x"), event("b", user="bob")])
        assert sent_again == [Outcome.FORGOTTEN, Outcome.STORED]
        assert items(store) == []
        assert store.add_events([event("now", None, user="eve"), event("now", None)]) == [Outcome.STORED] * 2
        assert store.forget("ann").events == 1
        assert store.add_events([event("n", done.time_ms + 10**9, insert_id="x")]) == [Outcome.STORED]
        assert items(store) == ["n"]
        assert store.forgotten_among(["ann"]) == {"ann"}, "still kept out of training"

    def test_nobody_is_forgotten_at_first(self, store: UserStore) -> None:
        assert store.forgotten_among(["ann", "bob"]) == set()
        assert store.forgotten_among([]) == set()

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

    def test_only_the_newest_impressions_count(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "s.db", newest_shown=2)
        store.add_events([shown("a", 1), shown("a", 2), shown("b", 3)])
        assert shown_of(store.read("ann")) == {"a": (1, 2), "b": (1, 3)}

    def test_reads_go_by_index_and_never_meet_what_was_shown(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "s.db")
        store.read("ann")
        for query, index in ((_READ, "chosen_by_user"), (_READ_SHOWN, "shown_by_user")):
            plan = store._connection().execute(f"EXPLAIN QUERY PLAN {query}", ("ann", 5)).fetchall()
            steps = " ".join(step[-1] for step in plan)
            assert index in steps
            assert "SCAN events" not in steps

    def test_no_byte_of_a_forgotten_user_is_left_in_any_file(self, tmp_path: Path) -> None:
        # Pages that split keep copies of rows in unused bytes, where secure_delete does not reach: some of these users
        # are still there when the file is not rewritten.
        store, r = SqliteStore(tmp_path / "s.db"), random.Random(4)
        users = [f"user-{r.getrandbits(64):016x}" for _ in range(600)]

        def some_event(user: str) -> StoredEvent:
            insert_id = f"{user}-{r.getrandbits(60)}" if r.random() < 0.5 else ""
            item_id, time_ms, kind = (
                f"i{r.randrange(5000)}",
                r.randrange(10**6),
                r.choice(["click", "impression", "buy"]),
            )
            return StoredEvent(
                insert_id, user, item_id, time_ms, kind, None, "dec" * r.randrange(5), 1, f"visit-{user}"
            )

        for _ in range(60):
            store.add_events(some_event(user) for user in r.choices(users, k=500))
            store.put_users((user, {"a": "x" * r.randrange(200)}) for user in r.choices(users, k=30))
        gone, kept = users[::10], users[1]

        def found() -> int:
            content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
            return sum(content.count(user.encode()) for user in gone)

        before = store.read(kept)
        assert found() > 1000
        for user in gone:
            assert store.forget(user).events > 0
        assert found() == 0
        after = store.read(kept)
        assert list(after.events.item_ids) == list(before.events.item_ids)
        assert after.attributes == before.attributes
        assert {path.name for path in tmp_path.iterdir()} == {"s.db", "s.db-wal", "s.db-shm", "s.db.suppression-key"}
        assert (tmp_path / "s.db.suppression-key").stat().st_mode & 0o777 == 0o600

    def test_an_id_that_stands_in_every_row_is_searched_for_as_fast_as_the_file_is_read(self, tmp_path: Path) -> None:
        # Looking at each row it stands in took minutes for a file of 20 MB, and a forgotten "42" stands in many.
        store = SqliteStore(tmp_path / "s.db")
        for start in range(0, 60_000, 5000):
            rows = range(start, start + 5000)
            store.add_events(event(f"i{k % 3700}", k, user=f"user-{k % 6040}", insert_id=f"user-{k}") for k in rows)
        store.close()
        begun = time.monotonic()
        found = list(remnants(tmp_path / "s.db", b"user-"))
        assert time.monotonic() - begun < 15
        content = (tmp_path / "s.db").read_bytes()
        assert all(content[at : at + 5] == b"user-" for at in found)
        assert len(found) < content.count(b"user-") / 10, "rows in use are none"

    def test_a_file_of_the_first_version_is_taken_over(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "s.db") as old:
            old.executescript(FIRST_VERSION)
        old.close()
        store = SqliteStore(tmp_path / "s.db")
        known = store.read("ann")
        assert list(known.events.item_ids) == ["a", "c"]
        assert shown_of(known) == {"b": (1, 6)}
        assert known.attributes == {"age": "25"}
        assert store.add_events([event("z", insert_id="x"), event("d")]) == [Outcome.DUPLICATE, Outcome.STORED]
        assert [e.item_id for part in store.log(3, 10) for e in part] == ["d"]
        assert store.forget("ann").events == 3
        store.close()
        assert list(SqliteStore(tmp_path / "s.db").read("bob").events.item_ids) == []

    def test_a_file_of_the_second_version_is_taken_over(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "s.db")
        store.add_events([event("a", 5), event("b", 6)])
        store.close()
        with sqlite3.connect(tmp_path / "s.db") as old:
            old.executescript("ALTER TABLE events DROP COLUMN context; PRAGMA user_version = 2")
        old.close()
        store = SqliteStore(tmp_path / "s.db")
        store.add_events([StoredEvent("", "ann", "c", 7, "buy", None, context={"device": "tv"})])
        assert items(store) == ["a", "b", "c"]
        assert [e.context for part in store.log(0, 10) for e in part] == [{}, {}, {"device": "tv"}]
        store.close()

    def test_a_file_of_a_later_version_is_refused_by_its_number(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "s.db") as later:
            later.execute("PRAGMA user_version = 7")
        later.close()
        store = SqliteStore(tmp_path / "s.db")
        for call in (lambda: store.read("ann"), lambda: store.add_events([event("a")])):
            with pytest.raises(StoreUnavailable, match=r"s\.db: is of store version 7; this release .* version 3"):
                call()

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


class TestRedisStore(StoreContract):
    @pytest.fixture
    def url(self, valkey: Any) -> Iterator[str]:
        return f"redis://127.0.0.1:{valkey.port}/3"

    @pytest.fixture
    def store(self, url: str, valkey: Any) -> Iterator[UserStore]:
        with redis.Redis(port=valkey.port) as client:
            client.flushall()
        store = open_store(url)
        yield store
        store.close()

    def test_no_byte_of_a_forgotten_user_stays_in_the_servers_files(self, store: UserStore, valkey: Any) -> None:
        user = f"user-{random.Random(1).getrandbits(64):016x}"
        store.add_events([event(f"i{i}", user=user, insert_id=f"{user}-{i}") for i in range(50)])
        store.put_users([(user, {"age": "25"})])

        def found() -> int:
            files = [path for path in valkey.data_dir.rglob("*") if path.is_file()]
            return sum(path.read_bytes().count(user.encode()) for path in files if path.exists())

        assert found() > 0
        assert store.forget(user).events == 50
        deadline = time.monotonic() + 60
        while found():  # the file is written anew in the background
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with redis.Redis(port=valkey.port, db=3) as client:
            assert not [key for key in client.scan_iter() if user.encode() in key]

    def test_a_users_keys_hold_the_newest_alone_and_the_log_all(self, valkey: Any, store: UserStore) -> None:
        small = RedisStore("127.0.0.1", valkey.port, 3, newest_events=2, newest_shown=1)
        small.add_events([event("old", 1), event("newest", 9), event("newer", 5), shown("a", 1), shown("b", 2)])
        assert items(small) == items(store) == ["newer", "newest"]
        assert shown_of(store.read("ann")) == {"b": (1, 2)}
        assert sum(len(part) for part in small.log(0, 2)) == 5
        assert small.forget("ann").events == 3, "those that only the log had, too"
        assert list(small.log(0, 2)) == []
        small.close()

    def test_what_the_log_has_let_go_of_costs_no_memory_any_more(
        self, valkey: Any, store: UserStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tandem_core.stores.redis._LOG_LENGTH", 100)
        for _ in range(8):
            store.add_events([event(f"i{i}") for i in range(100)])
        with redis.Redis(port=valkey.port, db=3) as client:
            logged, numbered = client.xlen("tandem:events"), client.llen("tandem:by:ann")
        assert logged < 400, "the log is not cut: the test says nothing"
        assert numbered <= logged + 100
        assert store.forget("ann").events == logged

    def test_a_server_that_is_not_durable_is_told_of_once(
        self, valkey: Any, store: UserStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        store.add_events([event("a")])
        assert caplog.records == []
        with redis.Redis(port=valkey.port) as client:
            client.config_set("appendfsync", "everysec")
            lax = RedisStore("127.0.0.1", valkey.port, 3)
            lax.add_events([event("a")])
            lax.add_events([event("a")])
            client.config_set("appendfsync", "always")
        lax.close()
        assert ["appendfsync always" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize(
    "url", ["", "store.db", "redis:///", "redis://h/x", "sqlite://x", "sqlite:///", "postgres:///x"]
)
def test_an_unknown_scheme_is_named_with_what_would_do(url: str) -> None:
    with pytest.raises(ConfigError, match=r": use sqlite:///PATH") as caught:
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
