"""What the ranker's columns are read from beside catalogue and vectors: popularity by item, and what follows what."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tandem_core.sources.popularity_tables import (
    GLOBAL,
    OF_TYPE,
    TRENDING,
    WEIGHTED_RATING,
    WINDOW,
    PopularityTables,
)
from tandem_core.sparse_rows import SparseRows

_TABLES = (GLOBAL, WINDOW, TRENDING, WEIGHTED_RATING, OF_TYPE)  # those over all items: the same for every user


@dataclass(frozen=True, slots=True)
class RankerTables:
    """Counted or fitted on training events alone, so that no column looks past the training cut.

    names: the T tables. levels: float32 [N, T], so that one item's numbers lie side by side; of popularity the
    logarithm of 1 + how many times an even share the item has, of ratings the rating; 0 for items that are not in the
    table. next_items: as in `ItemToItem`; None: not loaded.
    """

    names: tuple[str, ...] = ()
    levels: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    next_items: SparseRows | None = None

    @classmethod
    def of(cls, popularity: PopularityTables, next_items: SparseRows | None, n_items: int) -> RankerTables:
        tables = {key: table for key, table in popularity.tables.items() if key.startswith(_TABLES)}
        levels = np.empty((n_items, len(tables)), np.float32)
        for number, (key, table) in enumerate(tables.items()):
            score = table.by_row(n_items)
            levels[:, number] = score if key == WEIGHTED_RATING else np.log1p(score * n_items)
        return cls(tuple(tables), levels, next_items)
