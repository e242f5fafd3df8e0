"""Live items in the SQLite file that holds the users, too."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from tandem_core.stores.base import StoreUnavailable
from tandem_core.stores.live import Added, Changes, Cursor, Encoding, LiveItem
from tandem_core.stores.sqlite_schema import WrongVersion, prepare

# document: JSON, NULL for a deleted item; its text apart, since servers do not read it. position: the order in which
# readers of one bundle learn of additions; an item has a new one whenever it changes or is encoded. Vectors are NULL
# where the bundle holds this very item already.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS live_items (
    item_id TEXT PRIMARY KEY,
    seq INTEGER NOT NULL UNIQUE,
    document TEXT,
    changed_ms INTEGER NOT NULL,
    text TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS live_items_deleted ON live_items (seq) WHERE document IS NULL;
CREATE TABLE IF NOT EXISTS live_encodings (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    bundle_id TEXT NOT NULL,
    item_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    item_vector BLOB,
    content_vector BLOB,
    UNIQUE (item_id, bundle_id)
);
CREATE INDEX IF NOT EXISTS live_encodings_by_bundle ON live_encodings (bundle_id, position);
CREATE TABLE IF NOT EXISTS live_state (only INTEGER PRIMARY KEY CHECK (only = 1), seq INTEGER, version INTEGER);
INSERT OR IGNORE INTO live_state VALUES (1, 0, 0);
"""
_ADDED = """
SELECT e.position, e.seq, i.document, e.item_vector, e.content_vector
FROM live_encodings e JOIN live_items i USING (item_id)
WHERE e.bundle_id = ? AND e.position > ? AND e.item_vector IS NOT NULL ORDER BY e.position LIMIT ?
"""
_NOT_ENCODED = """
SELECT i.seq, i.document, i.text, i.changed_ms FROM live_items i
LEFT JOIN live_encodings e ON e.item_id = i.item_id AND e.bundle_id = ?
WHERE i.document IS NOT NULL AND e.position IS NULL ORDER BY i.seq LIMIT ?
"""
_ADD_ENCODING = """
INSERT OR REPLACE INTO live_encodings (bundle_id, item_id, seq, item_vector, content_vector)
SELECT ?, item_id, seq, ?, ? FROM live_items WHERE item_id = ? AND seq = ? AND document IS NOT NULL
"""
_BUSY_TIMEOUT_S = 5.0
_NO_LIMIT = -1

T = TypeVar("T")


class SqliteLiveStore:
    """WAL, synchronous=FULL: an acknowledged change is on disk. One connection per thread, opened on first use.

    clock_ms: the time that changes are stamped with.
    """

    def __init__(self, path: Path, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._path = path
        self._clock_ms = clock_ms
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()

    def version(self) -> int:
        # data_version changes whenever another connection writes to the file, be it events: only then we look closer.
        def look(connection: sqlite3.Connection) -> int:
            (file_version,) = connection.execute("PRAGMA data_version").fetchone()
            if self._local.file_version != file_version:
                self._local.file_version, self._local.version = file_version, _version(connection)
            return int(self._local.version)

        return self._reading(look)

    def changes(self, bundle_id: str, since: Cursor, most: int | None) -> Changes:
        def look(connection: sqlite3.Connection) -> Changes:
            connection.execute("BEGIN")  # one snapshot for both
            try:
                gone = connection.execute(
                    "SELECT item_id, seq FROM live_items WHERE document IS NULL AND seq > ? ORDER BY seq",
                    (since.deleted,),
                ).fetchall()
                limit = _NO_LIMIT if most is None else most + 1
                rows = connection.execute(_ADDED, (bundle_id, since.added, limit)).fetchall()
            finally:
                connection.execute("COMMIT")
            more = most is not None and len(rows) > most
            rows = rows[:most] if more else rows
            added = [
                Added(
                    seq,
                    LiveItem.of_json(document),
                    Encoding(np.frombuffer(vector, np.float32), np.frombuffer(content, "f4")),
                )
                for _, seq, document, vector, content in rows
            ]
            cursor = Cursor(gone[-1][1] if gone else since.deleted, rows[-1][0] if rows else since.added)
            return Changes([item_id for item_id, _ in gone], added, cursor, more)

        return self._reading(look)

    def upsert(self, items: Sequence[LiveItem], encodings: Mapping[str, Sequence[Encoding | None]]) -> None:
        latest = {item.item_id: place for place, item in enumerate(items)}  # of doubles the last one counts

        def write(connection: sqlite3.Connection) -> None:
            numbers = self._change(
                connection, [(items[p].item_id, items[p].to_json(), items[p].text) for p in latest.values()]
            )
            for bundle_id, each in encodings.items():
                _encode(connection, bundle_id, [(numbers[id_], id_, each[place]) for id_, place in latest.items()])

        self._writing(write)

    def delete(self, item_ids: Sequence[str]) -> None:
        self._writing(lambda c: self._change(c, [(item_id, None, None) for item_id in dict.fromkeys(item_ids)]))

    def get(self, item_id: str) -> LiveItem | None:
        found = self._row(item_id)
        return None if found is None or found[0] is None else LiveItem.of_json(*found)

    def is_deleted(self, item_id: str) -> bool:
        found = self._row(item_id)
        return found is not None and found[0] is None

    def items(self) -> Iterator[LiveItem]:
        query = "SELECT document, text FROM live_items WHERE document IS NOT NULL ORDER BY seq"
        for found in self._reading(lambda connection: connection.execute(query).fetchall()):
            yield LiveItem.of_json(*found)

    def deleted_ids(self) -> list[str]:
        query = "SELECT item_id FROM live_items WHERE document IS NULL ORDER BY seq"
        return [item_id for (item_id,) in self._reading(lambda connection: connection.execute(query).fetchall())]

    def not_encoded(self, bundle_id: str, most: int) -> list[tuple[int, LiveItem, int]]:
        rows = self._reading(lambda connection: connection.execute(_NOT_ENCODED, (bundle_id, most)).fetchall())
        return [(seq, LiveItem.of_json(document, text), changed_ms) for seq, document, text, changed_ms in rows]

    def add_encodings(self, bundle_id: str, encodings: Sequence[tuple[int, str, Encoding | None]]) -> None:
        def write(connection: sqlite3.Connection) -> None:
            _encode(connection, bundle_id, encodings)
            _advance(connection, 0)

        self._writing(write)

    def keep_encodings(self, bundle_ids: Sequence[str]) -> None:
        marks = ",".join("?" * len(bundle_ids))
        delete = f"DELETE FROM live_encodings WHERE bundle_id NOT IN ({marks})"  # noqa: S608  (marks alone)
        self._writing(lambda connection: connection.execute(delete, tuple(bundle_ids)))

    def close(self) -> None:
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
        self._local = threading.local()

    def _change(
        self, connection: sqlite3.Connection, documents: Sequence[tuple[str, str | None, str | None]]
    ) -> dict[str, int]:
        """Store documents under new numbers, and forget what was encoded; return item id -> number."""
        last = _advance(connection, len(documents))
        now_ms = self._clock_ms()
        numbers = {item_id: last - len(documents) + i for i, (item_id, _, _) in enumerate(documents, start=1)}
        connection.executemany(
            "INSERT OR REPLACE INTO live_items (item_id, seq, document, changed_ms, text) VALUES (?, ?, ?, ?, ?)",
            ((item_id, numbers[item_id], document, now_ms, text) for item_id, document, text in documents),
        )
        connection.executemany(
            "DELETE FROM live_encodings WHERE item_id = ?", ((item_id,) for item_id, _, _ in documents)
        )
        return numbers

    def _row(self, item_id: str) -> tuple[str, str] | tuple[None, None] | None:
        query = "SELECT document, text FROM live_items WHERE item_id = ?"
        found: tuple[str, str] | tuple[None, None] | None = self._reading(
            lambda c: c.execute(query, (item_id,)).fetchone()
        )
        return found

    def _reading(self, look: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return look(self._connection())
        except (sqlite3.Error, OSError, WrongVersion) as error:
            raise StoreUnavailable(f"{self._path}: {error}") from error

    def _writing(self, write: Callable[[sqlite3.Connection], object]) -> None:
        def at_once(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")  # all or nothing, and no upgrade of a reader's lock that may fail
            try:
                write(connection)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

        self._reading(at_once)
        self._local.file_version = None  # a connection's own writes do not change its data_version

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None
            )
            try:
                _prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._local.connection = connection
            self._local.file_version, self._local.version = None, 0
            with self._lock:
                self._connections.append(connection)
        return connection


def _prepare(connection: sqlite3.Connection) -> None:
    prepare(connection, _BUSY_TIMEOUT_S)
    found = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'live_state'").fetchone()
    if found is None:  # only then: creating takes the write lock, even where there is nothing to do
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT")


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("SELECT version FROM live_state").fetchone()
    return int(version)


def _advance(connection: sqlite3.Connection, numbers: int) -> int:
    """Take so many new numbers, and tell the readers that something changed; return the last number."""
    advance = "UPDATE live_state SET seq = seq + ?, version = version + 1 RETURNING seq"
    (last,) = connection.execute(advance, (numbers,)).fetchone()
    return int(last)


def _encode(
    connection: sqlite3.Connection, bundle_id: str, encodings: Iterable[tuple[int, str, Encoding | None]]
) -> None:
    connection.executemany(
        _ADD_ENCODING,
        (
            (bundle_id, *((None, None) if e is None else (_blob(e.item_vector), _blob(e.content_vector))), item_id, seq)
            for seq, item_id, e in encodings
        ),
    )


def _blob(vector: np.ndarray) -> bytes:
    return np.ascontiguousarray(vector, np.float32).tobytes()
