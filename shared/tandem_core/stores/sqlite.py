"""The default user store: one SQLite file, for services that share a host."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tandem_core.query import UserEvents
from tandem_core.settings import ConfigError
from tandem_core.shown import IMPRESSION, ShownItems
from tandem_core.stores.base import Forgotten, LoggedEvent, Outcome, StoredEvent, StoredUser, StoreUnavailable
from tandem_core.stores.sqlite_erase import erase
from tandem_core.stores.sqlite_schema import WrongVersion, prepare
from tandem_core.stores.suppression import key_beside, read_key, user_hash

log = logging.getLogger(__name__)

_READ = """
SELECT item_id, timestamp_ms, event_type, value FROM events
WHERE user_id = ? AND event_type <> 'impression' ORDER BY timestamp_ms DESC, seq DESC LIMIT ?
"""
_READ_SHOWN = """
SELECT item_id, COUNT(*), MAX(timestamp_ms) FROM (
    SELECT item_id, timestamp_ms FROM events
    WHERE user_id = ? AND event_type = 'impression' ORDER BY timestamp_ms DESC, seq DESC LIMIT ?
) GROUP BY item_id
"""
_INSERT = """
INSERT OR IGNORE INTO events
    (insert_id, user_id, item_id, timestamp_ms, event_type, value, decision_id, position, session_id, context)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_LOG = """
SELECT seq, user_id, item_id, timestamp_ms, event_type, value, decision_id, position, session_id, context FROM events
WHERE seq > ? ORDER BY seq LIMIT ?
"""
_BUSY_TIMEOUT_S = 5.0


class SqliteStore:
    """WAL, synchronous=FULL: an acknowledged write is on disk. One connection per thread, opened on first use.

    newest_events, newest_shown: how many of a user's newest events and impressions are read. key_file: the key of the
    suppression list; None for one that is made beside the store. clock_ms: the time, milliseconds since 1970.
    """

    def __init__(
        self,
        path: Path,
        newest_events: int = 10_000,
        newest_shown: int = 1_000,
        key_file: Path | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._path = path
        self._newest_events = newest_events
        self._newest_shown = newest_shown
        self._key_file = key_file
        self._clock_ms = clock_ms
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def read(self, user_id: str) -> StoredUser:
        with self._named():
            connection = self._connection()
            rows = connection.execute(_READ, (user_id, self._newest_events)).fetchall()[::-1]
            shown = connection.execute(_READ_SHOWN, (user_id, self._newest_shown)).fetchall()
            user = connection.execute("SELECT attributes FROM users WHERE user_id = ?", (user_id,)).fetchone()
        attributes = json.loads(user[0]) if user else {}
        events = UserEvents()
        if rows:
            item_ids, timestamps, event_types, values = zip(*rows, strict=True)
            events = UserEvents(item_ids, np.array(timestamps, np.int64), event_types, np.array(values, np.float32))
        return StoredUser(events, attributes, ShownItems.of(*zip(*shown, strict=True)) if shown else ShownItems())

    def add_events(self, events: Iterable[StoredEvent]) -> list[Outcome]:
        events = list(events)
        if not events:
            return []
        with self._named(), self._transaction() as connection:
            arrival = _arrival(connection, self._clock_ms())
            outcomes = [Outcome.STORED] * len(events)
            forgotten = self._forgotten(connection, {event.user_id for event in events})
            if forgotten:
                for i, event in enumerate(events):
                    if event.timestamp_ms is not None and event.timestamp_ms <= forgotten.get(event.user_id, -1):
                        outcomes[i] = Outcome.FORGOTTEN
            wanted = [event for event, outcome in zip(events, outcomes, strict=True) if outcome is Outcome.STORED]
            before = connection.execute("SELECT COALESCE(MAX(seq), 0) FROM events").fetchone()[0]
            connection.executemany(
                _INSERT,
                (
                    (e.insert_id or None, e.user_id, e.item_id, _time(e, arrival), *e[4:-1], _written(e.context))
                    for e in wanted
                ),
            )  # fmt: skip
            if any(event.insert_id for event in wanted):
                found = connection.execute(
                    "SELECT insert_id FROM events WHERE seq > ? AND insert_id IS NOT NULL", (before,)
                )
                new = {insert_id for (insert_id,) in found}
                for i, event in enumerate(events):
                    if event.insert_id and outcomes[i] is Outcome.STORED:
                        if event.insert_id in new:
                            new.discard(event.insert_id)  # the second of the same batch is a duplicate
                        else:
                            outcomes[i] = Outcome.DUPLICATE
        return outcomes

    def put_users(self, users: Iterable[tuple[str, Mapping[str, str]]]) -> int:
        rows = [(user_id, json.dumps(dict(attributes))) for user_id, attributes in users]
        with self._named(), self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO users (user_id, attributes) VALUES (?, ?)", rows)
        return len(rows)

    def forget(self, user_id: str) -> Forgotten:
        with self._named():
            hashed = user_hash(self._key(), user_id)
            with self._transaction() as connection:
                now_ms = _arrival(connection, self._clock_ms())
                shown = connection.execute(
                    "DELETE FROM events WHERE user_id = ? AND event_type = ?", (user_id, IMPRESSION)
                ).rowcount
                chosen = connection.execute(
                    "DELETE FROM events WHERE user_id = ? AND event_type <> ?", (user_id, IMPRESSION)
                ).rowcount
                attributes = connection.execute("DELETE FROM users WHERE user_id = ?", (user_id,)).rowcount
                connection.execute("INSERT OR REPLACE INTO suppressed VALUES (?, ?)", (hashed, now_ms))
            erase(connection, self._path, user_id)
        return Forgotten(chosen, shown, attributes, now_ms)

    def forgotten_among(self, user_ids: Sequence[str]) -> set[str]:
        with self._named():
            return set(self._forgotten(self._connection(), set(user_ids)))

    def log(self, after: int, most: int) -> Iterator[list[LoggedEvent]]:
        while True:
            with self._named():
                rows = self._connection().execute(_LOG, (after, most)).fetchall()
            if not rows:
                return
            yield [LoggedEvent._make((*row[:-1], json.loads(row[-1]) if row[-1] else {})) for row in rows]
            after = rows[-1][0]

    def close(self) -> None:
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
        self._local = threading.local()

    def _forgotten(self, connection: sqlite3.Connection, user_ids: set[str]) -> dict[str, int]:
        """Return user -> time of forgetting, of those on the suppression list."""
        if connection.execute("SELECT 1 FROM suppressed LIMIT 1").fetchone() is None:
            return {}  # so it mostly is, and hashing all users would be for nothing
        key = self._key()
        statement = "SELECT forgotten_ms FROM suppressed WHERE user_hash = ?"
        found = ((user, connection.execute(statement, (user_hash(key, user),)).fetchone()) for user in user_ids)
        return {user: row[0] for user, row in found if row is not None}

    def _key(self) -> bytes:
        if self._key_file is not None:
            return read_key(self._key_file)
        return key_beside(self._path.with_name(f"{self._path.name}.suppression-key"))

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn what SQLite and the system raise into StoreUnavailable with the file's name."""
        try:
            yield
        except (sqlite3.Error, OSError, WrongVersion, ConfigError) as error:
            raise StoreUnavailable(f"{self._path}: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, the write lock taken first: nobody writes between what is read here and written."""
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None
            )
            try:
                prepare(connection, _BUSY_TIMEOUT_S)
            except BaseException:
                connection.close()
                raise
            self._local.connection = connection
            with self._lock:
                self._connections.append(connection)
        return connection


def _time(event: StoredEvent, arrival_ms: int) -> int:
    return arrival_ms if event.timestamp_ms is None else event.timestamp_ms


def _written(context: Mapping[str, str]) -> str:
    return json.dumps(dict(context)) if context else ""


def _arrival(connection: sqlite3.Connection, now_ms: int) -> int:
    """Return the time of arrival, never before the last one: a clock that is set back must not reorder events."""
    connection.execute(
        "INSERT INTO counters VALUES ('arrival_ms', ?) ON CONFLICT DO UPDATE SET value = MAX(value, excluded.value)",
        (now_ms,),
    )
    return int(connection.execute("SELECT value FROM counters WHERE name = 'arrival_ms'").fetchone()[0])
