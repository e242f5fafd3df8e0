"""What a user was shown, apart from what they chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tandem_core.candidates import CandidateBatch
from tandem_core.catalog import Catalog

IMPRESSION = "impression"  # the event type that says "shown", not "chosen"


@dataclass(frozen=True, slots=True)
class ShownItems:
    """Items shown to one user, each once.

    item_ids: n distinct strings. counts: int32 [n], how often. last_ms: int64 [n], the newest time, milliseconds
    since 1970.
    """

    item_ids: Sequence[str] = ()
    counts: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    last_ms: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.item_ids)

    @classmethod
    def of(cls, item_ids: Sequence[str], counts: Sequence[int], last_ms: Sequence[int]) -> ShownItems:
        """Return rows as columns; an item that is named several times is counted once."""
        count: dict[str, int] = {}
        last: dict[str, int] = {}
        for item_id, times, newest in zip(item_ids, counts, last_ms, strict=True):
            count[item_id] = count.get(item_id, 0) + times
            last[item_id] = max(last.get(item_id, newest), newest)
        return cls(list(count), np.array([*count.values()], np.int32), np.array([*last.values()], np.int64))

    def merged_with(self, other: ShownItems) -> ShownItems:
        """Return both as one: counts add up, the newest time stays."""
        if not len(other):
            return self
        if not len(self):
            return other
        return ShownItems.of(
            [*self.item_ids, *other.item_ids],
            [*self.counts.tolist(), *other.counts.tolist()],
            [*self.last_ms.tolist(), *other.last_ms.tolist()],
        )

    def rows_within(self, catalog: Catalog, now_ms: int, seconds: float) -> NDArray[np.int32]:
        """Return the catalogue rows of the items shown at most `seconds` before now_ms, or after it."""
        recent = np.flatnonzero(now_ms - self.last_ms <= seconds * 1000)
        return catalog.rows(self.item_ids[i] for i in recent.tolist())

    def columns(self, catalog: Catalog, rows: NDArray[np.int32], now_ms: int) -> dict[str, NDArray[np.generic]]:
        """Return candidate columns for `rows` [n].

        impressions: int32 [n], 0 where never shown. last_shown_age_s: float64 [n], seconds, inf where never shown.
        """
        impressions = np.zeros(len(rows), np.int32)
        age = np.full(len(rows), np.inf)
        if len(self) and len(rows):
            mine = np.array([catalog.row_of.get(item_id, -1) for item_id in self.item_ids], np.int32)
            by_row = np.argsort(mine)
            place = np.searchsorted(mine, rows, sorter=by_row)
            found = by_row[np.minimum(place, len(mine) - 1)]
            hit = mine[found] == rows
            impressions[hit] = self.counts[found[hit]]
            age[hit] = np.maximum(now_ms - self.last_ms[found[hit]], 0) / 1000
        return {"impressions": impressions, "last_shown_age_s": age}


def with_shown(batch: CandidateBatch, shown: ShownItems, catalog: Catalog, now_ms: int) -> CandidateBatch:
    """Return the batch with columns impressions and last_shown_age_s, or as it is where nothing was shown."""
    return batch.with_columns(shown.columns(catalog, batch.rows, now_ms)) if len(shown) else batch


def lowered(batch: CandidateBatch, rows: NDArray[np.int32], factor: float) -> CandidateBatch:
    """Return the batch with the scores of `rows` brought down to `factor` of their height above the lowest score."""
    hit = np.isin(batch.rows, rows) & np.isfinite(batch.scores)
    if not hit.any():
        return batch
    floor = batch.scores[np.isfinite(batch.scores)].min()
    return batch.with_scores(np.where(hit, floor + (batch.scores - floor) * np.float32(factor), batch.scores))
