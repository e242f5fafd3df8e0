"""Making sure that what was deleted from an SQLite file is no longer in its bytes.

`secure_delete` overwrites deleted cells, and an emptied write-ahead log holds nothing. But a page that SQLite split
earlier may keep a copy of a cell between its cell pointers and its cells, where no statement reaches it (measured: for
1 to 4 of 60 users forgotten). So the file is searched, and rewritten where something is found.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from tandem_core.stores.base import StoreUnavailable

_TRUNCATE_S = 5.0  # for readers to leave the log that is to be emptied; their transactions are short
_PAGES_AT_ONCE = 2048
_TREE_PAGES = (2, 5, 10, 13)  # first byte of a B-tree page: interior and leaf, of indices and tables


def erase(connection: sqlite3.Connection, path: Path, text: str) -> None:
    """Empty the write-ahead log, and rewrite the file if `text`, of deleted rows, is still in its unused bytes.

    The whole file is read; rewriting blocks writers meanwhile. Raises StoreUnavailable, sqlite3.Error, OSError.
    """
    _empty_log(connection, path)
    if next(remnants(path, text.encode()), None) is not None:
        connection.execute("VACUUM")
        _empty_log(connection, path)


def remnants(path: Path, wanted: bytes) -> Iterator[int]:
    """Yield the offsets in the file where `wanted` stands and no row of a table does."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(18)[16:], "big")
        page_size = 65536 if size == 1 else size
        file.seek(0)
        start = 0
        while chunk := file.read(page_size * _PAGES_AT_ONCE):
            at = chunk.find(wanted)
            while at >= 0:
                page = chunk[at - at % page_size :][:page_size]
                if not _in_use(page, at % page_size, first=start + at < page_size):
                    yield start + at
                at = chunk.find(wanted, at + 1)
            start += len(chunk)


def _in_use(page: bytes, offset: int, *, first: bool) -> bool:
    """Return whether a place in a page belongs to its cells; the gap before them begins after the cell pointers."""
    header = 100 if first else 0  # the first page begins with the file's own header
    if page[header] not in _TREE_PAGES:
        return False  # free, or the overflow of a long row: taken for free
    cells = int.from_bytes(page[header + 5 : header + 7], "big") or 65536
    return offset >= cells or offset < header


def _empty_log(connection: sqlite3.Connection, path: Path) -> None:
    """Move the write-ahead log into the file and empty it."""
    deadline = time.monotonic() + _TRUNCATE_S
    while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if time.monotonic() > deadline:
            raise StoreUnavailable(f"{path}: readers keep the log, which has what was deleted: ask again")
        time.sleep(0.01)
