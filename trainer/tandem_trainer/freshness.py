"""When items came into the world."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tandem_core.catalog import Catalog


def born_ms(catalog: Catalog, rows_item: NDArray[np.integer], timestamps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return float64 [N], milliseconds since 1970: an item's created_at, else its first training event, else NaN.

    rows_item, timestamps: [E], training events; those of unknown items (row below 0) are left out.
    """
    first: NDArray[np.float64] = np.full(len(catalog), np.inf)
    known = rows_item >= 0
    np.minimum.at(first, rows_item[known], timestamps[known])
    first[np.isinf(first)] = np.nan
    created = catalog.numbers.get("created_at")
    return first if created is None else np.where(np.isnan(created), first, created * 1000)
