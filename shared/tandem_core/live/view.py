"""One bundle and the live items of the moment, as one longer bundle."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tandem_core.bundle import Bundle
from tandem_core.catalog import CodeColumn
from tandem_core.live.catalog import LiveCatalog, LiveRows
from tandem_core.live.growing import Growing
from tandem_core.live.sources import sources_with_live
from tandem_core.query import SourcePlan
from tandem_core.sources.live import LIVE
from tandem_core.stores.live import Added, Changes

# As other sources of items that behaviour says nothing of: the merge may put them low, a few reach the ranker.
_PLAN = SourcePlan(LIVE, limit=50, weight=0.001, quota=10)
REUSED_AFTER_S = 60.0  # no request that still reads an item's place may be older


class LiveView:
    """Follows the changes of one bundle's catalogue. `bundle` is the newest version; versions given out stay sound.

    Every array of the bundle goes on behind its last row: what reads them by row (filters, features, rules) needs to
    know nothing of live items. Applying n changes costs O(n) and a sort of the live items by age, whatever the size of
    the catalogue, except for what is copied when room runs out and where texts are new to a column. Not safe to be
    changed from several threads.
    """

    def __init__(self, base: Bundle, clock: Callable[[], float] = time.monotonic) -> None:
        self.bundle = base
        self._base = base
        self._clock = clock
        self._rows = LiveRows()
        self._n = len(base.catalog)
        self._columns: _Columns | None = None  # made with the first change: most bundles never see one
        self._gone_of_bundle = 0
        self._free: deque[tuple[float, int]] = deque()  # when a row went, and which

    def apply(self, changes: Changes) -> None:
        """Take in deletions, then additions; makes a new `bundle` where there is any."""
        added = [each for each in changes.added if self._fits(each)]
        if not changes.deleted and not added:
            return
        if self._columns is None:
            self._columns = _Columns(self._base)
        gone = self._columns.gone
        for item_id in (*changes.deleted, *(each.item.item_id for each in added)):
            self._remove(item_id, gone)
        if added:
            self._add(added, self._columns)
        self.bundle = self._longer(self._columns)

    def _fits(self, each: Added) -> bool:
        vector, content = each.encoding
        base = self._base
        return (len(vector), len(content)) == (base.item_vectors.shape[1], base.content_vectors.shape[1])

    def _remove(self, item_id: str, gone: Growing) -> None:
        live = self._rows.row_of.pop(item_id, None)
        if live is not None:
            gone.first(self._n)[live] = True
            self._rows.row_of_seq.pop(self._rows.seqs[live - len(self._base.catalog)])
            self._free.append((self._clock(), live))
        row = self._base.catalog.row_of.get(item_id)
        if row is not None and not gone.first(self._n)[row]:
            gone.first(self._n)[row] = True
            self._gone_of_bundle += 1

    def _add(self, added: Sequence[Added], columns: _Columns) -> None:
        rows = np.array([self._place() for _ in added], np.int32)
        columns.put(rows, added)
        live, n = self._rows, len(self._base.catalog)
        for row, each in zip(rows.tolist(), added, strict=True):
            live.item_ids[row - n], live.titles[row - n] = each.item.item_id, each.item.title
            live.seqs[row - n] = each.seq
        columns.gone.put(rows, np.zeros(len(rows), np.bool_))  # whole only now
        for row, each in zip(rows.tolist(), added, strict=True):
            live.row_of[each.item.item_id] = row
            live.row_of_seq[each.seq] = row

    def _place(self) -> int:
        """Return the row of an item that went long ago, or the next one."""
        if self._free and self._clock() - self._free[0][0] > REUSED_AFTER_S:
            return self._free.popleft()[1]
        for texts in (self._rows.item_ids, self._rows.titles):
            texts.append("")
        self._rows.seqs.append(0)
        self._n += 1
        return self._n - 1

    def _longer(self, columns: _Columns) -> Bundle:
        n, base = self._n, self._base
        size = len(base.catalog)
        item_vectors, content_vectors = columns.item_vectors.first(n), columns.content_vectors.first(n)
        gone = columns.gone.first(n)
        live = np.flatnonzero(~gone[size:]).astype(np.int32)
        by_age = np.argsort(-columns.seqs.first(n - size)[live], kind="stable")
        catalog = LiveCatalog(
            base.catalog,
            self._rows,
            {name: column.first(n) for name, column in columns.codes.items()},
            {name: column.first(n) for name, column in columns.numbers.items()},
            columns.event_counts.first(n),
            columns.all_rows.first(n),
            gone,
            self._gone_of_bundle / max(size, 1),
        )
        plans = {
            regime: (*(plan for plan in plans if plan.source != LIVE), _PLAN) for regime, plans in base.plans.items()
        }
        return replace(
            base,
            catalog=catalog,
            popularity_level=columns.popularity_level.first(n),
            item_vectors=item_vectors,
            content_vectors=content_vectors,
            sources=sources_with_live(base.sources, size, item_vectors, content_vectors, live[by_age] + np.int32(size)),
            plans=plans,
            user_tower=None if base.user_tower is None else base.user_tower.over(item_vectors),
            ranker_tables=replace(base.ranker_tables, levels=columns.levels.first(n)),
        )


class _Columns:
    """All arrays of a bundle that are read by row."""

    def __init__(self, base: Bundle) -> None:
        catalog = base.catalog
        self.item_vectors = Growing(base.item_vectors)
        self.content_vectors = Growing(base.content_vectors)
        self.popularity_level = Growing(base.popularity_level)
        self.levels = Growing(base.ranker_tables.levels)
        self.event_counts = Growing(catalog.event_counts)
        self.all_rows = Growing(catalog.all_rows)
        self.gone = Growing(np.zeros(len(catalog), np.bool_))
        self.seqs = Growing(np.empty(0, np.int64))  # by place: the bundle's own items have none
        self._size = len(catalog)
        self.codes = {name: _Codes(column) for name, column in catalog.codes.items()}
        self.numbers: Mapping[str, Growing] = {name: Growing(column) for name, column in catalog.numbers.items()}

    def put(self, rows: NDArray[np.int32], added: Sequence[Added]) -> None:
        """Write items that are not to be read yet."""
        items = [each.item for each in added]
        self.gone.put(rows, np.ones(len(rows), np.bool_))
        self.item_vectors.put(rows, np.stack([each.encoding.item_vector for each in added]))
        self.content_vectors.put(rows, np.stack([each.encoding.content_vector for each in added]))
        self.popularity_level.put(rows, np.zeros(len(rows), np.float32))
        self.levels.put(rows, np.float32(0))
        self.event_counts.put(rows, np.zeros(len(rows), np.int32))
        self.all_rows.put(rows, rows)
        self.seqs.put(rows - np.int32(self._size), np.array([each.seq for each in added], np.int64))
        for name, numbers in self.numbers.items():
            numbers.put(rows, np.array([item.numbers.get(name, np.nan) for item in items]))
        for name, codes in self.codes.items():
            codes.put(rows, [item.codes.get(name, ()) for item in items])


class _Codes:
    """A text column that grows, and its vocabulary with it."""

    def __init__(self, column: CodeColumn) -> None:
        self._codes = Growing(column.codes)
        self._width = column.codes.shape[1]
        self._vocabulary, self._code_of = column.vocabulary, column.code_of

    def put(self, rows: NDArray[np.int32], texts: Sequence[Sequence[str]]) -> None:
        listed = [list(dict.fromkeys(each))[: self._width] for each in texts]
        if new := [t for t in dict.fromkeys(t for each in listed for t in each) if t not in self._code_of]:
            # Copies: versions given out have codes of the vocabulary as it was.
            self._code_of = {**self._code_of, **{text: len(self._code_of) + i for i, text in enumerate(new)}}
            self._vocabulary = [*self._vocabulary, *new]
        codes = np.full((len(rows), self._width), -1, np.int32)
        for i, each in enumerate(listed):
            codes[i, : len(each)] = [self._code_of[text] for text in each]
        self._codes.put(rows, codes)

    def first(self, n: int) -> CodeColumn:
        return CodeColumn(self._codes.first(n), self._vocabulary, self._code_of)
