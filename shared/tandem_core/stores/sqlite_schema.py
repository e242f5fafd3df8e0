"""The tables of the SQLite store, and how files of older versions are brought up to it."""

from __future__ import annotations

import sqlite3
import time

# PRAGMA user_version. Version 1 was written as 0, and had no impressions apart, decisions or suppression; version 2 had
# no context of events.
VERSION = 3

# seq keeps the order of arrival and is never used twice (AUTOINCREMENT). One table for all events, so that insert_ids
# and sequence numbers are of one kind; impressions have an index of their own: reading the history never meets them.
_EVENTS = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    insert_id TEXT UNIQUE,
    user_id TEXT NOT NULL,
    item_id TEXT NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    event_type TEXT NOT NULL,
    value REAL,
    decision_id TEXT NOT NULL DEFAULT '',
    position INTEGER NOT NULL DEFAULT 0,
    session_id TEXT NOT NULL DEFAULT '',
    context TEXT NOT NULL DEFAULT ''
)
"""
_FROM_VERSION_1 = (
    "ALTER TABLE events ADD COLUMN decision_id TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE events ADD COLUMN position INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE events ADD COLUMN session_id TEXT NOT NULL DEFAULT ''",
    "DROP INDEX IF EXISTS events_by_user",
)
_FROM_VERSION_2 = ("ALTER TABLE events ADD COLUMN context TEXT NOT NULL DEFAULT ''",)
_REST = (
    "CREATE INDEX chosen_by_user ON events (user_id, timestamp_ms, seq) WHERE event_type <> 'impression'",
    "CREATE INDEX shown_by_user ON events (user_id, timestamp_ms, seq, item_id) WHERE event_type = 'impression'",
    "CREATE TABLE IF NOT EXISTS users (user_id TEXT PRIMARY KEY, attributes TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE suppressed (user_hash BLOB PRIMARY KEY, forgotten_ms INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
)


class WrongVersion(Exception):  # noqa: N818
    """The file is of a version that this code does not know; says which."""


def prepare(connection: sqlite3.Connection, wait_s: float) -> None:
    """Set a connection and its file up, waiting up to wait_s for others who do the same.

    SQLite's own timeout does not cover a change to WAL. Raises WrongVersion, sqlite3.Error.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten with zeros
            _bring_up(connection)
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _bring_up(connection: sqlite3.Connection) -> None:
    if _version(connection) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection)  # another process may have been faster
        if version not in (0, 2, VERSION):
            raise WrongVersion(f"is of store version {version}; this release reads and writes version {VERSION}")
        for statement in _steps(connection, version):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _steps(connection: sqlite3.Connection, version: int) -> tuple[str, ...]:
    if version == VERSION:
        return ()
    if version == 2:
        return _FROM_VERSION_2
    old = connection.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'events'").fetchone()
    return (*_FROM_VERSION_1, *_FROM_VERSION_2, *_REST) if old else (_EVENTS, *_REST)


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
