"""Popularity counted by the trainer: over everybody, by user segment, by item category."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem_core.text_blob import pack_strings, unpack_strings

GLOBAL = "global"


@dataclass(frozen=True, slots=True)
class RankedTable:
    """Items by falling popularity. rows: int32 [n]. scores: float32 [n], share of the table's weight, in (0, 1]."""

    rows: NDArray[np.int32]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PopularityTables:
    """Tables by key: "global" (every item of the catalogue), "segment:age=25,gender=F", "category:Drama"."""

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
