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
_LEAF_PAGES = (10, 13)  # first byte of a B-tree page, of indices and of tables
_TREE_PAGES = (2, 5, *_LEAF_PAGES)


def erase(connection: sqlite3.Connection, path: Path, text: str) -> None:
    """Empty the write-ahead log, and rewrite the file if `text`, of deleted rows, is still in its unused bytes.

    The whole file is read; rewriting blocks writers meanwhile. Raises StoreUnavailable, sqlite3.Error, OSError.
    """
    _empty_log(connection, path)
    if next(remnants(path, text.encode()), None) is not None:
        connection.execute("VACUUM")
        _empty_log(connection, path)


def remnants(path: Path, wanted: bytes) -> Iterator[int]:
    """Yield the offsets in the file where `wanted` stands and no row of a table does.

    Looks only where no row is: a short id stands in many rows, and going through them would take minutes.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(18)[16:], "big")
        page_size = 65536 if size == 1 else size
        file.seek(0)
        start = 0
        while chunk := file.read(page_size * _PAGES_AT_ONCE):
            for page in range(0, len(chunk), page_size) if wanted in chunk else ():
                begin, end = _unused(chunk, page, page_size, first=start + page == 0)
                at = chunk.find(wanted, begin, end + len(wanted) - 1)
                while at >= 0:
                    yield start + at
                    at = chunk.find(wanted, at + 1, end + len(wanted) - 1)
            start += len(chunk)


def _unused(chunk: bytes, page: int, page_size: int, *, first: bool) -> tuple[int, int]:
    """Return where the gap between the cell pointers and the cells of a page begins and ends.

    Source: SQLite's Database File Format, section 1.6.
    """
    header = page + (100 if first else 0)  # the first page begins with the file's own header
    if (kind := chunk[header]) not in _TREE_PAGES:
        return header, page + page_size  # free, or the overflow of a long row: taken for free
    pointers = header + (8 if kind in _LEAF_PAGES else 12)
    cells = int.from_bytes(chunk[header + 5 : header + 7], "big") or 65536
    return pointers + 2 * int.from_bytes(chunk[header + 3 : header + 5], "big"), page + cells


def _empty_log(connection: sqlite3.Connection, path: Path) -> None:
    """Move the write-ahead log into the file and empty it."""
    deadline = time.monotonic() + _TRUNCATE_S
    while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if time.monotonic() > deadline:
            raise StoreUnavailable(f"{path}: readers keep the log, which has what was deleted: ask again")
        time.sleep(0.01)
