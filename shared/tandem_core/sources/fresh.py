"""The newest items first."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tandem_core.features import User
from tandem_core.filters import Eligibility
from tandem_core.sources.base import Found
from tandem_core.sources.popularity import first_eligible
from tandem_core.sources.popularity_tables import RankedTable

MS_PER_DAY = 86_400_000


@dataclass(frozen=True, slots=True)
class Fresh:
    """Items born within the last `max_age_days` of the request's moment, newest first, ties to the smaller row.

    An item is born when the catalogue says it was created, else at its first training event; without either, and when
    born after the request's moment, it is not fresh. Score: share of its fresh time that is left,
    1 - age / max_age_days, in [0, 1]; 0 for items that are not fresh. Knows every user. A replayed request carries its
    own moment, so that a replay finds what was fresh then.
    born_ms: float64 [N], milliseconds since 1970, NaN where unknown.
    """

    born_ms: NDArray[np.float64]
    max_age_days: float
    _rows: NDArray[np.int32] = field(init=False, repr=False)  # of known birth, newest first
    _ages_back: NDArray[np.float64] = field(init=False, repr=False)  # minus born_ms, rising

    def __post_init__(self) -> None:
        newest_first = np.argsort(-self.born_ms, kind="stable")  # NaN last
        known = newest_first[: np.count_nonzero(~np.isnan(self.born_ms))]
        object.__setattr__(self, "_rows", known.astype(np.int32))
        object.__setattr__(self, "_ages_back", -self.born_ms[known])

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        longest = self.max_age_days * MS_PER_DAY
        first = np.searchsorted(self._ages_back, -user.now_ms, side="left")
        last = np.searchsorted(self._ages_back, longest - user.now_ms, side="right")

        def score_rows(rows: NDArray[np.int32]) -> NDArray[np.float32]:
            ages = user.now_ms - self.born_ms[rows]
            fresh = (ages >= 0) & (ages <= longest)  # False where the birth is unknown
            return np.where(fresh, 1 - ages / longest, 0).astype(np.float32)

        rows = self._rows[first:last]
        found = first_eligible(RankedTable(rows, np.empty(len(rows), np.float32)), eligible, limit)
        return Found(found.rows, score_rows(found.rows), score_rows)
