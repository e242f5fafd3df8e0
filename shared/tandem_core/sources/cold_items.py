"""Items that training hardly saw, by what is known of them: their content, and how items like them did."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tandem_core.catalog import Catalog
from tandem_core.features import History, User
from tandem_core.filters import Eligibility
from tandem_core.index.base import top_k
from tandem_core.sources.base import Found
from tandem_core.sources.cold_items_model import ColdItemModel


@dataclass(frozen=True, slots=True)
class ColdItems:
    """Items with fewer than `cold_item_events` training events, and no others.

    A user with a history: the weighted mean of the anchors' vectors times the item's vector. Each item of the history
    counts once, with the weight of its strongest event; items that are no anchors do not count. Everybody else: the
    item's prior plus the mean affinity of the user's segment to the item's categories (the most specific segment that
    the model has; 0 without one). Knows every user. Scores of the two kinds do not compare.
    Raises ValueError where the model does not belong to the catalogue.
    """

    model: ColdItemModel
    catalog: Catalog
    cold_item_events: int
    _anchor_of: NDArray[np.int32] = field(init=False)  # [N], a place among the anchors, -1 for other rows
    _categories: NDArray[np.int32] | None = field(init=False)  # [n, C] of the cold items

    def __post_init__(self) -> None:
        model, counts = self.model, self.catalog.event_counts
        last = max(int(model.anchor_rows[-1:].sum()), int(model.item_rows[-1:].sum()))
        if last >= len(self.catalog):
            raise ValueError(f"the cold items' model knows row {last}, the catalogue has {len(self.catalog)} items")
        warm = model.item_rows[counts[model.item_rows] >= self.cold_item_events]
        if len(warm):
            raise ValueError(
                f"row {warm[0]} of the cold items' model has {counts[warm[0]]} training events: "
                f"only items with fewer than {self.cold_item_events} are cold"
            )
        places = np.full(len(self.catalog), -1, np.int32)
        places[model.anchor_rows] = np.arange(len(model.anchor_rows), dtype=np.int32)
        categories = self.catalog.codes.get("categories")
        vocabulary = len(categories.vocabulary) if categories is not None else 0
        if model.affinity.shape[1] != vocabulary:
            raise ValueError(f"affinities to {model.affinity.shape[1]} categories, the catalogue has {vocabulary}")
        object.__setattr__(self, "_anchor_of", places)
        object.__setattr__(self, "_categories", None if categories is None else categories.codes[model.item_rows])

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        kept = np.flatnonzero(eligible.keep(self.model.item_rows))
        taste = self.taste(user.history)
        # All of them, and then those kept: gathering vectors takes longer than multiplying them.
        scores = self._by_segment(user, kept) if taste is None else (self.model.item_vectors @ taste)[kept]
        return Found(*top_k(scores, self.model.item_rows[kept], limit))

    def taste(self, history: History) -> NDArray[np.float32] | None:
        """Return the user's vector [D], None where the history holds no anchor."""
        places = self._anchor_of[history.rows]
        known = places >= 0
        if not known.any():
            return None
        anchors, of_event = np.unique(places[known], return_inverse=True)
        weights = np.zeros(len(anchors), np.float32)
        np.maximum.at(weights, of_event, history.decayed(self.model.half_life)[known])
        if (total := weights.sum()) <= 0:  # an old event's weight fades below the smallest float
            return None
        taste: NDArray[np.float32] = (weights / total) @ self.model.anchor_vectors[anchors]
        return taste

    def _by_segment(self, user: User, kept: NDArray[np.intp]) -> NDArray[np.float32]:
        scores = self.model.prior[kept]
        segment = next((key for key in user.segment_keys if key in self.model.segments), None)
        if segment is None or self._categories is None:
            return scores
        codes = self._categories[kept]
        liked = np.where(codes >= 0, self.model.affinity[self.model.segments.index(segment)][codes], 0)
        mean: NDArray[np.float32] = liked.sum(axis=1) / np.maximum((codes >= 0).sum(axis=1), 1)
        return (scores + mean).astype(np.float32)
