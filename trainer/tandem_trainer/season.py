"""Whether events can tell the season from a trend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tandem_core.ranker_features import MONTH

OTHER_YEARS = 0.1  # of a month's events, outside its busiest year: a tail of a few is no second year


def shows_season(times_ms: NDArray[np.int64]) -> bool:
    """Return whether every month of the year was seen in two years.

    times_ms: int64 [n], milliseconds since 1970. What was seen in one December alone may be of December, or of that
    year: with less than two years a month is a place on the trend, and next year's would be read as this one's.
    """
    since_1970 = times_ms.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
    if not len(since_1970):
        return False
    first_year = since_1970.min() // 12
    counts = np.bincount(since_1970 - first_year * 12)
    by_year = np.pad(counts, (0, -len(counts) % 12)).reshape(-1, 12)  # [years, 12]
    total = by_year.sum(0)
    return bool((total > 0).all() and (total - by_year.max(0) >= OTHER_YEARS * total).all())


def without_an_unseen_season(names: Sequence[str], asked_ms: NDArray[np.int64]) -> list[str]:
    """Return the ranker's columns that its requests can teach it: those of the month where they show the season.

    asked_ms: int64 [n]. A ranker learns from the held-out part alone, which may be a few months of the years that the
    towers know.
    """
    return list(names) if shows_season(asked_ms) else [name for name in names if name not in MONTH]
