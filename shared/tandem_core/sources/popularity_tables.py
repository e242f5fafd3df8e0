"""Popularity counted by the trainer: over everybody, by user segment, by item category, lately; and by ratings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem_core.text_blob import pack_strings, unpack_strings

GLOBAL = "global"
WINDOW = "window:"  # and the days of it: "window:7"
TRENDING = "trending"
WEIGHTED_RATING = "weighted_rating"
OF_TYPE = "events:"  # and the event type: "events:view"


@dataclass(frozen=True, slots=True)
class RankedTable:
    """Items by falling score. rows: int32 [n], none twice. scores: float32 [n], finite.

    A score is the item's share of the table's event weight, in [0, 1]; in those of an event type of its events, however
    much they weigh; in the table of ratings it is a rating.
    """

    rows: NDArray[np.int32]
    scores: NDArray[np.float32]

    def by_row(self, n_items: int) -> NDArray[np.float32]:
        """Return float32 [n_items]: the score of each catalogue row, 0 for rows that are not in the table."""
        scores = np.zeros(n_items, np.float32)
        scores[self.rows] = self.scores
        return scores


@dataclass(frozen=True, slots=True)
class PopularityTables:
    """Tables by key: "global" (every item of the catalogue), "segment:age=25,gender=F", "category:Drama",
    "window:7" (days), "trending", "weighted_rating", "events:view" (an event type).
    """

    tables: Mapping[str, RankedTable]

    def __post_init__(self) -> None:
        if GLOBAL not in self.tables:
            raise ValueError(f"popularity tables need one named {GLOBAL!r}; there are {sorted(self.tables)[:5]}")

    @property
    def everybody(self) -> RankedTable:
        return self.tables[GLOBAL]

    def segment(self, key: str) -> RankedTable | None:
        return self.tables.get(f"segment:{key}")

    def category(self, category: str) -> RankedTable | None:
        return self.tables.get(f"category:{category}")

    def catalogue_wide(self) -> dict[str, RankedTable]:
        """Return source name -> table, for all but the one over everybody that are the same for every user."""
        windows = {key: table for key, table in self.tables.items() if key.startswith(WINDOW)}
        named = {f"popularity_{key.removeprefix(WINDOW)}d": table for key, table in windows.items()}
        return named | {key: self.tables[key] for key in (TRENDING, WEIGHTED_RATING) if key in self.tables}

    def check(self, n_items: int) -> None:
        """Raise ValueError naming the first table that does not fit a catalogue of `n_items`."""
        for key, table in self.tables.items():
            if len(table.rows) != len(table.scores) or not np.isfinite(table.scores).all():
                raise ValueError(f"popularity table {key!r} has scores that are not finite, or not one per row")
            if len(table.rows) and not 0 <= table.rows.min() <= table.rows.max() < n_items:
                raise ValueError(f"popularity table {key!r} has rows outside the catalogue of {n_items} items")
        if len(self.everybody.rows) != n_items:
            raise ValueError(f"popularity table {GLOBAL!r} has {len(self.everybody.rows)} rows; expected {n_items}")

    def save(self, path: Path) -> None:
        """Write as npz without pickle: all tables end to end."""
        tables = list(self.tables.values())
        np.savez(
            path,
            allow_pickle=False,
            rows=np.concatenate([table.rows for table in tables]),
            scores=np.concatenate([table.scores for table in tables]),
            ends=np.cumsum([len(table.rows) for table in tables]),
            **pack_strings("keys", list(self.tables)),
        )

    @classmethod
    def load(cls, path: Path) -> PopularityTables:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            parts = arrays["ends"][:-1]
            split = zip(np.split(arrays["rows"], parts), np.split(arrays["scores"], parts), strict=True)
            tables = (RankedTable(rows, scores) for rows, scores in split)
            return cls(dict(zip(unpack_strings(arrays, "keys"), tables, strict=True)))
