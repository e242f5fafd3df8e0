"""The default user store: one SQLite file, for services that share a host."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from tandem_core.query import UserEvents
from tandem_core.stores.base import StoredEvent, StoredUser, StoreUnavailable

# seq keeps the order of arrival for events of equal time.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    insert_id TEXT UNIQUE,
    user_id TEXT NOT NULL,
    item_id TEXT NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    event_type TEXT NOT NULL,
    value REAL
);
CREATE INDEX IF NOT EXISTS events_by_user ON events (user_id, timestamp_ms, seq);
CREATE TABLE IF NOT EXISTS users (user_id TEXT PRIMARY KEY, attributes TEXT NOT NULL) WITHOUT ROWID;
"""
_READ = """
SELECT item_id, timestamp_ms, event_type, value FROM events
WHERE user_id = ? ORDER BY timestamp_ms DESC, seq DESC LIMIT ?
"""
_BUSY_TIMEOUT_S = 5.0


class SqliteStore:
    """WAL, synchronous=FULL: an acknowledged write is on disk. One connection per thread, opened on first use."""

    def __init__(self, path: Path, newest_events: int = 10_000) -> None:
        self._path = path
        self._newest_events = newest_events
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()

    def read(self, user_id: str) -> StoredUser:
        try:
            connection = self._connection()
            rows = connection.execute(_READ, (user_id, self._newest_events)).fetchall()[::-1]
            user = connection.execute("SELECT attributes FROM users WHERE user_id = ?", (user_id,)).fetchone()
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"{self._path}: {error}") from error
        attributes = json.loads(user[0]) if user else {}
        if not rows:
            return StoredUser(attributes=attributes)
        item_ids, timestamps, event_types, values = zip(*rows, strict=True)
        return StoredUser(
            UserEvents(item_ids, np.array(timestamps, np.int64), event_types, np.array(values, np.float32)),
            attributes,
        )

    def add_events(self, events: Iterable[StoredEvent]) -> int:
        return self._write(
            "INSERT OR IGNORE INTO events (insert_id, user_id, item_id, timestamp_ms, event_type, value)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            ((event.insert_id or None, *event[1:]) for event in events),
        )

    def put_users(self, users: Iterable[tuple[str, Mapping[str, str]]]) -> int:
        return self._write(
            "INSERT OR REPLACE INTO users (user_id, attributes) VALUES (?, ?)",
            ((user_id, json.dumps(dict(attributes))) for user_id, attributes in users),
        )

    def close(self) -> None:
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
        self._local = threading.local()

    def _write(self, statement: str, rows: Iterable[tuple[object, ...]]) -> int:
        try:
            connection = self._connection()
            with connection:  # one transaction: all rows or none
                return connection.executemany(statement, rows).rowcount
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"{self._path}: {error}") from error

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, check_same_thread=False)
            _prepare(connection)
            self._local.connection = connection
            with self._lock:
                self._connections.append(connection)
        return connection


def _prepare(connection: sqlite3.Connection) -> None:
    """Set the file up, waiting for others who do the same: SQLite's own timeout does not cover a change to WAL."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
