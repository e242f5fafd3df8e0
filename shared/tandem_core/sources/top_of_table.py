"""The best items of one table, the same for everybody: popular this week, trending, rated best."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tandem_core.features import User
from tandem_core.filters import Eligibility
from tandem_core.sources.base import Found
from tandem_core.sources.popularity import first_eligible
from tandem_core.sources.popularity_tables import RankedTable


@dataclass(frozen=True, slots=True)
class TopOfTable:
    """Score: the table's value, 0 for items that are not in it. Knows every user.

    n_items: size of the catalogue.
    """

    table: RankedTable
    n_items: int
    _by_row: NDArray[np.float32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_row", self.table.by_row(self.n_items))

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        found = first_eligible(self.table, eligible, limit)
        return Found(found.rows, found.scores, self._by_row.__getitem__)
