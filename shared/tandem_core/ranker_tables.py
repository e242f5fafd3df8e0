"""What the ranker's columns are read from beside catalogue and vectors: popularity by item, and what follows what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tandem_core.sources.popularity_tables import GLOBAL, TRENDING, WEIGHTED_RATING, WINDOW, PopularityTables
from tandem_core.sparse_rows import SparseRows

_TABLES = (GLOBAL, WINDOW, TRENDING, WEIGHTED_RATING)  # those over all items: the same for every user


@dataclass(frozen=True, slots=True)
class RankerTables:
    """Counted or fitted on training events alone, so that no column looks past the training cut.

    levels: table -> float32 [N]; of popularity the logarithm of 1 + how many times an even share the item has, of
    ratings the rating; 0 for items that are not in the table. next_items: as in `ItemToItem`; None: not loaded.
    """

    levels: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    next_items: SparseRows | None = None

    @classmethod
    def of(cls, popularity: PopularityTables, next_items: SparseRows | None, n_items: int) -> RankerTables:
        levels = {key: table.by_row(n_items) for key, table in popularity.tables.items() if key.startswith(_TABLES)}
        as_levels = {
            key: share if key == WEIGHTED_RATING else np.log1p(share * n_items).astype(np.float32)
            for key, share in levels.items()
        }
        return cls(as_levels, next_items)

    @property
    def names(self) -> list[str]:
        return list(self.levels)
