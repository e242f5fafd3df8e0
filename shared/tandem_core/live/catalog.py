"""A bundle's catalogue with live items behind its own: the same columns, only longer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tandem_core.catalog import Catalog, CodeColumn


@dataclass(slots=True)
class LiveRows:
    """What only a catalogue's growing end has, shared by all its versions.

    item_ids, titles, seqs: by place, which is row - size; a place is used
    again some time after its item went. row_of: items that are there now. row_of_seq: of the same items.
    """

    item_ids: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    row_of: dict[str, int] = field(default_factory=dict)
    row_of_seq: dict[int, int] = field(default_factory=dict)


class LiveCatalog(Catalog):
    """The catalogue of `base` and, from row len(base) on, live items. Read only, as every catalogue.

    Reads `rows` while these go on changing: a row beyond its own length, of an item that came later, is unknown to it.
    """

    __slots__ = ("_base", "_gone", "_gone_share", "_live")

    _base: Catalog
    _gone: NDArray[np.bool_]
    _gone_share: float
    _live: LiveRows

    def __init__(
        self,
        base: Catalog,
        live: LiveRows,
        codes: Mapping[str, CodeColumn],
        numbers: Mapping[str, NDArray[np.float64]],
        event_counts: NDArray[np.int32],
        all_rows: NDArray[np.int32],
        gone: NDArray[np.bool_],
        gone_share: float,
    ) -> None:
        own = {
            "_base": base,
            "_live": live,
            "_gone": gone,
            "_gone_share": gone_share,
            "item_ids": _Joined(base.item_ids, live.item_ids, len(all_rows)),
            "titles": _Joined(base.titles, live.titles, len(all_rows)),
            "codes": codes,
            "numbers": numbers,
            "event_counts": event_counts,
            "row_of": _RowOf(base.row_of, live.row_of, gone),
            "all_rows": all_rows,
        }
        for name, value in own.items():  # a frozen dataclass lets nobody assign
            object.__setattr__(self, name, value)

    def find(self, item_ids: Sequence[str]) -> NDArray[np.int32]:
        """As in any catalogue; a deleted item of the bundle keeps its row, since histories go on with it."""
        rows = self._base.find(item_ids)
        row_of = self._live.row_of
        live = np.array([row_of.get(item_id, -1) for item_id in item_ids], np.int32)
        return np.where((live >= 0) & (live < len(self)), live, rows).astype(np.int32, copy=False)

    @property
    def bundle_size(self) -> int:
        return len(self._base)

    @property
    def gone(self) -> NDArray[np.bool_] | None:
        return self._gone

    @property
    def gone_share(self) -> float:
        return self._gone_share

    @property
    def present(self) -> int:
        return len(self) - int(np.count_nonzero(self._gone))

    def wire_rows(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        live = np.flatnonzero(rows >= self.bundle_size)
        if not len(live):
            return rows
        wire = rows.copy()
        wire[live] = [-1 - self._live.seqs[row - self.bundle_size] for row in rows[live].tolist()]
        return wire

    def rows_of_wire(self, wire: NDArray[np.int32]) -> NDArray[np.int32]:
        rows = wire.copy()
        live = np.flatnonzero(wire < 0)
        if len(live):
            found = [self._live.row_of_seq.get(-1 - number, -1) for number in wire[live].tolist()]
            rows[live] = [row if row < len(self) else -1 for row in found]
        known = (rows >= 0) & (rows < len(self))
        rows[known] = np.where(self._gone[rows[known]], -1, rows[known])
        return rows


@dataclass(frozen=True, slots=True)
class _Joined(Sequence[str]):
    """Two lists as one of n texts."""

    head: Sequence[str]
    tail: Sequence[str]
    n: int

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, row):  # type: ignore[no-untyped-def]  # slices are not asked for
        at = int(row)
        return self.head[at] if at < len(self.head) else self.tail[at - len(self.head)]


@dataclass(frozen=True, slots=True)
class _RowOf(Mapping[str, int]):
    """Item id -> row, of items that are there: a live one before the bundle's, nothing for deleted ones."""

    head: Mapping[str, int]
    tail: Mapping[str, int]
    gone: NDArray[np.bool_]

    def __getitem__(self, item_id: str) -> int:
        row = self.tail.get(item_id)
        if row is None or row >= len(self.gone):
            row = self.head[item_id]
            if self.gone[row]:
                raise KeyError(item_id)
        return row

    def __iter__(self) -> Iterator[str]:
        yield from (item_id for item_id, row in self.head.items() if not self.gone[row])
        yield from (item_id for item_id, row in self.tail.items() if row < len(self.gone))

    def __len__(self) -> int:
        return sum(1 for _ in self)
