"""Candidates by what usually comes next after the user's latest items."""

from __future__ import annotations

from dataclasses import dataclass

from tandem_core.features import User
from tandem_core.filters import Eligibility
from tandem_core.index.base import top_k
from tandem_core.sources.base import Found
from tandem_core.sparse_rows import SparseRows


@dataclass(frozen=True, slots=True)
class ItemToItem:
    """Linear item model of the SLIST family (Choi et al., WWW 2021), made sparse.

    Score: the weighted sum of the history items' rows, about 0 to 1 (a regression of "this is the next item"). Finds
    items with a score above 0 only: of the others it has nothing to say. Knows users with a history.
    next_items: history item -> next items, [N, N]. half_life: in events, as in `Als`.
    """

    next_items: SparseRows
    half_life: float

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        if not len(user.history):
            return Found()
        scores = self.next_items.weighted_sum(user.history.rows, user.history.decayed(self.half_life))
        spoken_for = scores.values > 0
        rows, values = scores.columns[spoken_for], scores.values[spoken_for]
        kept = eligible.keep(rows)
        return Found(*top_k(values[kept], rows[kept], limit), scores.at)
